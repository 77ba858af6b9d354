"""A whole cluster on this machine: who starts, keeps, watches and ends its processes.

Why     `bursar up` needs no init system and no root; the CLI has the words, this room the processes.
"""
