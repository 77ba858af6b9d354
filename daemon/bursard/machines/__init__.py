"""Machines that are rented: one interface to all providers, none of them doubled, none forgotten."""
