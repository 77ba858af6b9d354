"""The simulator: an event heap and a virtual clock around the very state, scheduler and ledger of the daemon.

Input   a workload and a cluster as CSV, policies as YAML. Output: a summary, and a row for each job.
Why     a policy or a purchase can be judged on last month's jobs before it costs anything; and since every
        decision is made by the daemon's own code, what holds here holds there.
"""
