"""What will be spent: by what was spent before, by what runs and waits now, with how sure that is. PURE.

Owns    `usual` (what days cost, with quantiles), `outlook` (where a budget ends), `completion` (what a job
        costs in the end) and `anomalies` (days that cost what they usually do not).
Why     everything here is an estimate: it is integers, so that a replay and another machine say the same, but
        no amount of it is ever booked, held or refused by.
"""
