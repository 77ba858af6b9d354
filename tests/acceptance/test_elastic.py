"""A job of `nodes: 1..2` with real processes: it gives a node to another, and goes on with what it saved."""

from __future__ import annotations

import re
from collections.abc import Callable

from cluster import Cluster

POLICY = """\
kind: PlacementPolicy
name: elastic
spec: {{strategy: pack, allocator: {{name: goodput, round: 1d, restart: 0s, stay: {stay}}}}}
"""
JOB = """\
nodes: 1..2
resources: {{gpus: A100:1, cpus: 1}}
throughput: {{A100x1: 1, A100x2: 1.9}}
checkpoint: {{signal: USR1, grace: 10s}}
run: |
  saved=$BURSAR_CHECKPOINT_DIR/saved
  trap 'echo "attempt $BURSAR_ATTEMPT saved on $BURSAR_NODES" >>"$saved"; exit 1' USR1
  [ ! -e "$saved" ] || cat "$saved"
  echo "attempt $BURSAR_ATTEMPT on $NNODES of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT"
  {wait}
"""


def test_a_job_gives_a_node_away_and_goes_on_with_what_it_saved(
    make_cluster: Callable[..., Cluster],
) -> None:
    """Whoever applies another policy need not wait for the next round: the new one is asked at once."""
    cluster = make_cluster(2, "--simulate-gpus", "A100:1")
    gate = cluster.gate()
    cluster.apply(POLICY.format(stay=0.01))
    first = cluster.submit(JOB.format(wait=gate.wait))
    cluster.until_attempt(first, 1, "RUNNING")
    assert [each["node"] for each in cluster.show(first)["attempts"][0]["nodes"]] == ["local-1", "local-2"]
    second = cluster.submit(JOB.format(wait=gate.wait))
    cluster.apply(POLICY.format(stay=0.02))
    cluster.until_attempt(second, 1, "RUNNING")
    cluster.until_attempt(first, 2, "RUNNING")
    shown = cluster.show(first)
    assert shown["attempts"][0]["end_cause"] == "preempted"
    assert [len(each["nodes"]) for each in shown["attempts"]] == [2, 1]
    gate.open()
    assert cluster.ended(first)["state"] == cluster.ended(second)["state"] == "SUCCEEDED"
    log = cluster.log(first)
    assert "attempt 1 saved on 2" in log
    assert re.search(r"attempt 2 on 1 of 1 at [^:]+:\d+", log)
    cluster.doctor_is_content()
