"""Policy documents that tests vary, as people write them."""

IDLE = """\
kind: IdlePolicy
name: idle
spec:
  time_window: 30m
  warn_after: 10m
  action: hold
"""
OWNERS = """\
kind: Attribution
name: org
spec:
  reason: board of October
  owners:
    - {scope: {project: nlp/a}, team: a, cost_center: R-2}
    - {cost_center: R-1}
  shared:
    - {kinds: [idle, absorption], by: even}
    - {cost_center: R-1, by: shares, shares: {R-2: 60%, R-3: 40%}}
"""
