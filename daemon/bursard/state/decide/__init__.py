"""decide: (state, what is asked, now, ids) -> events, or an error from `bursar.errors`. Changes nothing.

Why     every way into the state passes one of these functions, so each rule stands in one place, and the
        same rules hold for the daemon, the simulator and the tests.
"""
