"""The agent's only door to the daemon: the one place of this package that speaks `bursar.v1`."""
