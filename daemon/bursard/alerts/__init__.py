"""Alerts: what thresholds of budgets, and what costs more than its like, tell people, by their channels.

Owns    which events are told to which channels (`courier`), the ways out (`ways`), and the looking for what
        costs more than its like (`watch`).
Why     a mail server that hangs must cost the daemon nothing: what is sent is sent in threads of its own,
        tried again so many times, and nothing of money waits for it or depends on it.
"""

from bursard.alerts.courier import Courier
from bursard.alerts.watch import AnomalyWatch

__all__ = ["AnomalyWatch", "Courier"]
