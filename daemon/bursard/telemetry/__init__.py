"""Live readings: the newest minute of every node, in memory alone. Lossy; no money depends on it."""

from bursard.telemetry.live import LiveTelemetry

__all__ = ["LiveTelemetry"]
