"""What the process of a member is started with: made by the daemon, opened where the process is started.

Why     a job's description used to be copied field by field through every room between its file and its
        process. Now whatever only the process needs is one value; agents carry it unopened, so a new field
        concerns nobody in between (docs/howto-add-a-job-field.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bursar.model.job import JobSpec


class Launch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member's process. Exactly one of `command` and `script` is given.

    A field that has the name of one of `JobSpec` is filled from it by `launch_of`.

    Attributes:
        command: argv, used as is.
        script: with a `#!` first line a file that this interpreter runs; else shell text.
        setup: shell text run to success first, in the same environment, directory and log.
        workdir: absolute; empty: the home of the account.
        env: complete but for what only the node knows (its account, its PATH). It may hold secrets, so
            nobody writes a Launch to a file.
    """

    command: tuple[str, ...] = ()
    script: str = ""
    setup: str = ""
    workdir: str = ""
    env: Mapping[str, str] = msgspec.field(default_factory=dict)


_FROM_SPEC = tuple(
    name for name in Launch.__struct_fields__ if name in JobSpec.__struct_fields__ and name != "env"
)


def launch_of(spec: JobSpec, env: Mapping[str, str]) -> Launch:
    """What a member of a job is started with, in its own environment."""
    return Launch(env=env, **{name: getattr(spec, name) for name in _FROM_SPEC})
