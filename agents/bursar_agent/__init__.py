"""The agent: starts attempts on one machine, measures them, and says truthfully what did happen."""
