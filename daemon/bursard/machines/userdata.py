"""What a rented machine is told when it starts: who it is, how its agent comes to run, and when it ends.

Why     it is the one place where a secret leaves the daemon: a node's token, made for this machine, which
        works once and soon. A machine that cannot come up that way switches itself off instead of waiting to
        be found.

A script for cloud-init, so that any image with it and `bursar-agent`, or a way to install that, will do.
"""

from __future__ import annotations

import json
from typing import Final

from bursar.clock import SECOND_US
from bursard.machines.provider import Order, setting

_END: Final = "BURSAR_END"
_PATH: Final = "/opt/bursar/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNIT: Final = (
    "-p Type=notify -p NotifyAccess=main -p Restart=always -p RestartSec=2 -p KillMode=process"
    " -p Delegate=yes -p DelegateSubgroup=agent -p TasksMax=infinity -p LimitNOFILE=1048576"
    " -p LimitMEMLOCK=infinity -E GRPC_ENABLE_FORK_SUPPORT=0"
)


def script(order: Order, provider: str, *, off_is_gone: bool) -> str:
    """The script of a machine. `off_is_gone`: one that is switched off is not paid for any more."""
    minutes = max(order.lifetime_us // (60 * SECOND_US), 1)
    bootstrap = setting(order.launch, "bootstrap", order.place)
    lines = ["#!/bin/sh", "# Written by bursard for this machine alone.", "umask 077", f"export PATH={_PATH}"]
    if off_is_gone:
        lines.append(f"shutdown -P +{minutes} 'the lifetime of this rented machine is over' || true")
    lines += ["mkdir -p /etc/bursar", *_file("/etc/bursar/join-token", order.join.token + "\n")]
    lines += _file("/etc/bursar/agent.toml", _config(order, provider))
    lines += [
        """printf 'address = "%s"\\n' "$(hostname -I | cut -d' ' -f1)" >>/etc/bursar/agent.toml""",
        "umask 022",
    ]
    if bootstrap:
        lines += [
            *_file("/run/bursar-bootstrap", bootstrap.rstrip("\n") + "\n"),
            f"sh -e /run/bursar-bootstrap || {_give_up(off_is_gone, 'its bootstrap failed')}",
        ]
    lines += [
        f"command -v bursar-agent >/dev/null || {_give_up(off_is_gone, 'it has no bursar-agent')}",
        "if systemctl cat bursar-agent.service >/dev/null 2>&1; then systemctl restart bursar-agent",
        f'else systemd-run --unit=bursar-agent {_UNIT} "$(command -v bursar-agent)"; fi',
    ]
    return "\n".join(lines) + "\n"


def _config(order: Order, provider: str) -> str:
    """The agent's settings, as TOML: its strings are written as JSON's."""
    join, place = order.join, order.place
    values = {
        "server": join.server,
        "name": join.name,
        "pool": join.pool,
        "token_file": "/etc/bursar/join-token",
        "provider": provider,
        "region": place.region,
        "zone": place.zone,
        "instance_type": place.instance_type,
        "market": place.market,
    }
    if place.market == "spot":
        values["notices"] = provider
    if ca_file := setting(order.launch, "ca_file", place):
        values["ca_file"] = ca_file
    return "".join(f"{key} = {json.dumps(text)}\n" for key, text in values.items())


def _file(path: str, text: str) -> list[str]:
    """Nothing in the text is the shell's."""
    end = _END
    while end in text:
        end += "_"
    return [f"cat >{path} <<'{end}'", *text.rstrip("\n").split("\n"), end]


def _give_up(off_is_gone: bool, why: str) -> str:
    """Its console has the reason for a while; the daemon gives it up after `boot_timeout` anyway."""
    off = "shutdown -P now; " if off_is_gone else ""
    return f"{{ echo 'bursar: {why}'; {off}exit 1; }}"
