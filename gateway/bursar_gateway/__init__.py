"""The gateway: takes requests for services, sends each to a replica, counts what was used.

It is a process of its own and a client of the wire: it goes on by the last answer while the daemon is away.
"""
