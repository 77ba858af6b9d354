"""Runs attempts so that they outlive the agent.

Owns    `launcher` (one tiny process per run directory) and `supervisor` (one per attempt member).
Input   `base.Runner`, the only door: the agent imports `bursar_agent.runner.base` and `.handle`.
Why     an upgrade or crash of the agent must not end a week of training, and an exit must be known
        truthfully even when nobody was listening. This file imports nothing, on purpose: the
        launcher passes through here, and every page it touches each supervisor pays for again.
"""
