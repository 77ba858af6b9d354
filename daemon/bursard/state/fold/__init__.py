"""fold: what each event means. (tables, event, at, applied) -> None, one function an event.

Why     this is the only code that writes `Tables`; it trusts its events, because `decide` made them or the
        log has them, and raises `InvariantViolation` where one cannot be.
"""
