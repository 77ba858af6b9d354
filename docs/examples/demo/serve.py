"""A service from nothing: held requests, load, more and fewer replicas, another revision, no money, the bill.

Owns    the order of the commands and a check after each, as `demo.py` beside it.
Why     a model that answers under a budget is seen in two minutes, with real models and a real gateway.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from demo import HERE_SHOWN, ROOT, Cluster, Surprise, environment, expect, say

SERVE = HERE_SHOWN.parent / "serve"
PATIENCE_S = 150
"""It takes seconds on a quiet machine."""
LOAD_S = 15
ASK = {"messages": [{"role": "user", "content": "A budget "}], "max_tokens": 48, "stream": True}


class Asker:
    """A client of the gateway, as any of OpenAI's: every answer is read to its end."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.answers: dict[int, int] = {}
        self._lock = threading.Lock()

    def ask(self) -> tuple[int, str]:
        """Status, and what was written."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            line.request("POST", "/chat/v1/chat/completions", json.dumps(ASK), headers)
            answer = line.getresponse()
            text = answer.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            line.close()
        if answer.status != 200:
            return answer.status, text
        return 200, "".join(_words(text))

    def load(self, many: int, until: Callable[[], bool]) -> list[threading.Thread]:
        """So many clients that ask again and again until told to stop."""

        def client() -> None:
            while not until():
                status, _ = self.ask()
                with self._lock:
                    self.answers[status] = self.answers.get(status, 0) + 1

        threads = [threading.Thread(target=client, daemon=True) for _ in range(many)]
        for one in threads:
            one.start()
        return threads


def _words(stream: str) -> list[str]:
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return [choice["delta"].get("content", "") for choice in choices]


def service(cluster: Cluster) -> Any:
    """The service as it is now."""
    return cluster.ask("service", "show", "chat")


def until(cluster: Cluster, wanted: Callable[[Any], bool], what: str) -> Any:
    """Ask until it is as wanted, with a line of how it is on the way."""
    deadline, told = time.monotonic() + PATIENCE_S, ""
    while True:
        found = service(cluster)
        states = [f"{one['state']}/{one['revision']}" for one in found["replicas"]]
        line = f"   {found['ready']} ready of {found['target']} wanted  {' '.join(states)}"
        if line != told:
            print(line, flush=True)
            told = line
        if wanted(found):
            return found
        expect(time.monotonic() < deadline, f"chat is {found['state']} and not {what}")
        time.sleep(0.5)


def file_of(cluster: Cluster, name: str, change: Callable[[str], str]) -> str:
    """The example's file, with the model kept in the demo's own folder."""
    text = (ROOT / SERVE / "chat.yaml").read_text("utf-8")
    text = text.replace("MODEL: model.pt", f"MODEL: {ROOT / cluster.state_dir / 'model.pt'}")
    path = ROOT / cluster.state_dir / name
    path.write_text(change(f"workdir: {ROOT / SERVE}\n{text}"), "utf-8")
    return str(path.relative_to(ROOT))


def start(cluster: Cluster, port: int) -> Asker:
    """A cluster with a gateway, a budget, a service that nobody asks yet, and a key."""
    say("1. A cluster with a gateway, a budget of 1 USD a month, and a service that may have no replica.")
    cluster.show("up", "--gateway", f"127.0.0.1:{port}", "--state-dir", cluster.state_dir, "--detach")
    cluster.environ["BURSAR_SERVER"] = cluster.ask("status", "--state-dir", cluster.state_dir)["server"]
    cluster.show("policy", "apply", str(SERVE / "budget.yaml"))
    cluster.show("submit", file_of(cluster, "chat.yaml", lambda text: text))
    cluster.show("service", "ls")
    made = cluster.ask("key", "new", "--service", "chat", "--name", "demo")
    say(f"   A key: {made['secret'][:8]}..., shown once. The gateway knows it a second later.")
    time.sleep(2)  # the gateway asks once a second
    return Asker(port, made["secret"])


def wake(cluster: Cluster, asker: Asker) -> None:
    """From none: the request waits, and one replica is started for it."""
    say(
        "2. A request while there is no replica: it waits at the gateway. The first replica learns its\n"
        "   model (six seconds) and keeps it for those after it."
    )
    began = time.monotonic()
    status, text = asker.ask()
    expect(status == 200, f"the first request was answered {status}: {text}")
    say(
        f"   After {time.monotonic() - began:.1f} s, in the words of the model:"
        f" A budget {' '.join(text.split())!r}"
    )
    cluster.show("service", "show", "chat")


def grow(cluster: Cluster, asker: Asker) -> None:
    """Load, and a second replica."""
    say("3. Six clients ask without a pause: twice what one replica should have in hand.")
    began = time.monotonic()
    threads = asker.load(6, lambda: time.monotonic() - began > LOAD_S)
    until(cluster, lambda one: bool(one["ready"] == 2), "with two replicas")
    for one in threads:
        one.join()
    say(f"   Answers by status: {asker.answers}")
    expect(set(asker.answers) == {200}, "some were not answered")


def update(cluster: Cluster, asker: Asker) -> None:
    """Another revision, while somebody asks."""
    say("4. Another revision takes over, replica by replica, while two clients go on asking.")
    asker.answers, done = {}, threading.Event()
    threads = asker.load(2, done.is_set)
    changed = file_of(cluster, "chat-2.yaml", lambda text: text.replace('LEARN_S: "6"', 'LEARN_S: "5"'))
    cluster.show("service", "update", "chat", changed)
    until(
        cluster,
        lambda one: one["ready"] >= 1 and all(r["revision"] == 2 for r in one["replicas"]),
        "of revision 2 alone",
    )
    done.set()
    for one in threads:
        one.join()
    say(f"   Answers by status: {asker.answers}")
    expect(set(asker.answers) == {200}, "the update cost somebody an answer")


def shrink(cluster: Cluster) -> None:
    """Nobody asks."""
    say("5. Nobody asks any more: after ten seconds no replica is kept.")
    until(cluster, lambda one: not one["replicas"], "without replicas")
    cluster.show("ls")


def spend(cluster: Cluster, asker: Asker) -> None:
    """No money, and money again."""
    say("6. The budget is cut to what is spent. Who asks is told so, with the numbers, and not to ask again.")
    (budget,) = cluster.ask("budget", "ls")
    text = (ROOT / SERVE / "budget.yaml").read_text("utf-8")
    spent = ROOT / cluster.state_dir / "spent.yaml"
    spent.write_text(text.replace("limit: 1 USD", f"limit: {budget['settled']['amount']} USD"), "utf-8")
    cluster.show("policy", "apply", str(spent.relative_to(ROOT)))
    deadline, status, text = time.monotonic() + PATIENCE_S, 0, ""
    while status != 429:
        expect(time.monotonic() < deadline, f"without money it is answered {status}: {text}")
        status, text = asker.ask()
    say(f"   {status} {text}")
    expect(json.loads(text)["error"]["code"] == "budget_exhausted", "it says another reason")
    say("   It is raised again, and the same request is answered.")
    cluster.show("policy", "apply", str(SERVE / "budget.yaml"))
    while status != 200:
        expect(time.monotonic() < deadline, f"with money again it is answered {status}")
        status, text = asker.ask()
    say(f"   {status}: A budget {' '.join(text.split())!r}")


def told(rows: Callable[[], list[Any]], patience_s: float = PATIENCE_S, pause_s: float = 2) -> None:
    """Wait until the gateway told of a minute: all there is may have been asked in the one that goes on."""
    deadline, waits = time.monotonic() + patience_s, False
    while not any(one["requests"] for one in rows()):
        expect(time.monotonic() < deadline, f"{patience_s:g} s later the bill says that nobody asked")
        if not waits:
            say("   Waiting for the minute that goes on to be over: the gateway tells of it then.")
            waits = True
        time.sleep(pause_s)


def bill(cluster: Cluster) -> None:
    """What it cost, and for whom."""
    say("7. The bill: what the replicas were charged, by key, and what was for nobody. Together the same.\n"
        "   (A minute that goes on is idle until it is over.)")  # fmt: skip
    told(lambda: cluster.ask("cost", "--by", "service,key")["rows"])
    cluster.show("cost", "--by", "service,key")
    cluster.show("service", "show", "chat")


def main(state_dir: str = ".demo-serve") -> int:
    """The whole story; 1 when the system did not do as told."""
    began = time.monotonic()
    cluster = Cluster(environment(), state_dir, "")
    if (ROOT / state_dir).exists():
        cluster.stop()
        shutil.rmtree(ROOT / state_dir)
    (ROOT / state_dir).mkdir(mode=0o700, parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    try:
        asker = start(cluster, port)
        wake(cluster, asker)
        grow(cluster, asker)
        update(cluster, asker)
        shrink(cluster)
        spend(cluster, asker)
        bill(cluster)
        say("8. Everything stops; the service would go on with the next `bursar up`.")
        cluster.show("down", "--state-dir", state_dir)
    except Surprise as surprise:
        print(f"\nthe demo failed: {surprise}\nlogs: {state_dir}/logs", file=sys.stderr)
        cluster.stop()
        return 1
    except KeyboardInterrupt:
        cluster.stop()
        return 130
    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
