"""The pages that people look at: a process of its own, which is a client of the daemon like any other.

Why     what a page shows is what the command prints: the same calls, the same rights, the same views and
        columns, so that there is no second truth and no second door.
"""
