"""Steps: processes that a running job starts on members of its own attempt. Standard library alone.

Owns    `client` (what asks, and is all that the user sees), `host` (starts and keeps the tasks of one node),
        `server` (makes hosts on the other nodes), `bridge` and `flow` (the way between), `srun` and its kin.
Why     each is started again and again inside jobs, so nothing here may load what a scheduler's client needs.
"""
