"""Alerts: what a budget's threshold tells people, by the channels of policy documents.

Owns    which events are told to which channels (`courier`), and the ways out (`ways`).
Why     a mail server that hangs must cost the daemon nothing: what is sent is sent in threads of its own,
        tried again so many times, and nothing of money waits for it or depends on it.
"""

from bursard.alerts.courier import Courier

__all__ = ["Courier"]
