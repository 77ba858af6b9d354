"""A notebook from its command to its end, with a stand-in for Jupyter on the node."""

from __future__ import annotations

import inspect
import sys
import urllib.request

import jupyter_stub
from cluster import Cluster

import bursar


def test_a_notebook_is_started_opened_asked_and_ended(shared_cluster: Cluster) -> None:
    cluster = shared_cluster
    folder = cluster.work / "jupyter"
    folder.mkdir()
    (folder / "kernel").write_text("idle")
    program = folder / "jupyter-lab"
    program.write_text(f"#!{sys.executable}\n{inspect.getsource(jupyter_stub)}")
    program.chmod(0o755)
    begun = cluster.run("notebook", "--detach", "--env", f"JUPYTER={program}", "--time-limit", "10m")
    assert "nobody uses it: told after 30m00s, stopped after 1h00m" in begun.stderr
    with bursar.Client(cluster.server) as client:
        [job] = client.list(labels={"bursar-notebook": "1"})
    with cluster.start("notebook", job.id, "--port", "0") as opened:
        assert opened.stdout is not None
        url = opened.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=20) as page:
            assert page.read() == b'{"page": "yes"}'
        token = url.partition("token=")[2]
        with bursar.Client(cluster.server) as client:
            done = client.execute(job, ["sh", "-c", 'ls "$BURSAR_SESSION_DIR"'])
            assert b"notebook.json" in done.stdout
            cluster.run("notebook", "--stop", job.id)
            opened.communicate(timeout=60)
            assert client.wait(job).state == "CANCELLED"
            log = client.logs_text(job)
            assert "the notebook listens" in log
            told = [log, str(client.get(job)), *map(str, client.events())]
    assert not any(token in one for one in told)
