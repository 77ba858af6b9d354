"""Which members share a device through MPS, and the servers that hold them to their shares.

Owns    the servers of this node (`state/mps/DEVICE-USER-N`), who uses which, and a file for each member
        there, so that the next agent knows it too. Input: shares of members that start and end.
Why     half a device whose memory nobody limits is a promise that another job breaks. There is a server from
        the first fraction of a device that a user gets until the last one ended; whole devices see none.

A server that broke is not mended under its members: its clients end with it, which their ends then say. The
next fraction gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from bursar.aside import own_directory
from bursar.errors import InvalidRequest
from bursar.model import Device, Exit
from bursar_agent import mps
from bursar_agent.mps import Mps, MpsFailed, Owner
from bursar_agent.probes.energy import Share
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

LIMIT: Final = "gpu"
"""The word among a node's limits (`bursar.model.LIMITS`)."""
WATCH_S: Final = 10.0
_WHOLE: Final = 1000
_FOLDER = re.compile(r"(\d{1,4})-(\d{1,10}|own)-(\d{1,6})")
_MEMBER = re.compile(r"([\w.-]{1,64})\.(\d{1,6})")
_TRIAL: Final = "trial"

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Server:
    """One server. `trouble`: what became of it, in words; empty: it works."""

    index: int
    owner: Owner
    folder: Path
    pid: int = 0
    started: int = 0
    members: set[Key] = field(default_factory=set)
    trouble: str = ""


class Sharing:
    """The servers of one node. All methods but `trial` are called in the loop's thread."""

    def __init__(self, folder: Path, devices: Sequence[Device], program: str | None) -> None:
        """`program`: of MPS; None: it is not here, or shall not be used."""
        self._folder = folder
        self._devices = {device.index: device for device in devices if not device.simulated}
        self._mps = Mps(program or "/bin/false")
        self._servers: list[Server] = []
        self._of: dict[Key, Server] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mps")
        self._turn = asyncio.Lock()
        self.problem = "" if program and self._devices else "MPS is not here, or not to be used"
        """Why fractions are not limited on this node; empty: they are."""

    @property
    def limits(self) -> bool:
        """Whether fractions of devices are held to their shares here."""
        return not self.problem

    def trial(self) -> None:
        """Start a server and end it: whoever claims a limit has seen that it can be had. Blocking.

        Raises `OSError` where the folder cannot be made.
        """
        own_directory(self._folder, 0o711)
        if self.problem:
            return
        longest = self._folder / "9999-9999999999-999999" / "pipe"
        if len(str(longest)) > mps.SOCKET_PATH_MAX:
            self.problem = f"{self._folder} is too long a path for MPS; give a shorter --state-dir"
        else:
            folder, device = self._folder / _TRIAL, next(iter(self._devices.values()))
            self._mps.quit(folder, Owner())
            try:
                self._mps.start(folder, device.uuid, Owner())
            except MpsFailed as problem:
                self.problem = problem.message
            finally:
                self._mps.quit(folder, Owner())
        if self.problem:
            log.warning("fractions of devices are not limited", extra={"problem": self.problem})

    # --- what an earlier agent left ---------------------------------------------------------------

    def resume(self) -> None:
        """Read which members have which server. Raises `OSError`."""
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            match = _FOLDER.fullmatch(folder.name)
            if match is None or not folder.is_dir():
                continue
            owner = Owner() if match[2] == "own" else Owner(int(match[2]), _gid_of(folder))
            server = Server(int(match[1]), owner, folder)
            pids = mps.processes(folder)
            if pids:
                server.pid, server.started = pids[0], mps.started_at(pids[0])
            else:
                server.trouble = "the MPS server of its device was gone when the agent came back"
            members = folder / "members"
            for path in members.iterdir() if members.is_dir() else ():
                found = _MEMBER.fullmatch(path.name)
                if found is not None:
                    server.members.add((found[1], int(found[2])))
            self._of.update(dict.fromkeys(server.members, server))
            self._servers.append(server)

    async def keep(self, running: Collection[Key]) -> None:
        """All other members have ended: their servers end too."""
        for key in self._of.keys() - set(running):
            await self.leave(key)
        for server in [one for one in self._servers if not one.members]:
            await self._end(server)

    # --- members ------------------------------------------------------------------------------------

    def wanted(self, shares: Sequence[Share]) -> bool:
        """Whether a member with these is to be limited: it has a part of one device that is really there."""
        return self.limits and any(milli < _WHOLE and index in self._devices for index, milli in shares)

    def serves(self, key: Key) -> bool:
        """Whether it uses its device through a server."""
        return key in self._of

    async def take(self, key: Key, shares: Sequence[Share], owner: Owner) -> Mapping[str, str]:
        """A member is about to start: the variables that hold it to its share.

        Raises `InvalidRequest` when there is no server to be had.
        """
        index, milli = next((index, milli) for index, milli in shares if milli < _WHOLE)
        device = self._devices[index]
        async with self._turn:
            server = self._of.get(key) or self._working(index, owner)
            try:
                if server is None:
                    server = await self._start(device, owner)
                members = server.folder / "members"
                own_directory(members)
                (members / f"{key[0]}.{key[1]}").touch()
            except (MpsFailed, OSError) as problem:
                why = problem.message if isinstance(problem, MpsFailed) else problem.strerror
                raise InvalidRequest(
                    f"device {index} cannot be shared: its MPS server does not start ({why}); mend it, or set"
                    ' mps = "off" for this agent'
                ) from None
            server.members.add(key)
            self._of[key] = server
        return {
            **mps.variables(server.folder),
            **mps.limits(device.uuid, device.memory_bytes, milli),
        }

    async def leave(self, key: Key, exit: Exit | None = None) -> Exit | None:
        """A member has ended, and with the last of a server the server. Its end, with what became of that."""
        server = self._of.pop(key, None)
        if server is None:
            return exit
        if exit is not None and (exit.exit_code or exit.signal) and not server.trouble:
            await self._look(server)
        async with self._turn:
            server.members.discard(key)
            if not server.members:
                await self._end(server)
            else:
                (server.folder / "members" / f"{key[0]}.{key[1]}").unlink(missing_ok=True)
        if exit is None or not server.trouble:
            return exit
        words = [exit.message, server.trouble]
        return msgspec.structs.replace(exit, message="; ".join(filter(None, words)))

    # --- servers ------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at every server now and then, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            for server in [one for one in self._servers if not one.trouble]:
                await self._look(server)

    def close(self) -> None:
        """Servers stay, as their members do."""
        self._thread.shutdown(wait=False)

    async def end_all(self) -> None:
        """Nobody is left who needs one."""
        for server in list(self._servers):
            await self._end(server)

    def _working(self, index: int, owner: Owner) -> Server | None:
        return next(
            (
                one
                for one in self._servers
                if one.index == index and one.owner.uid == owner.uid and not one.trouble
                and mps.alive(one.pid, one.started)
            ),
            None,
        )  # fmt: skip

    async def _start(self, device: Device, owner: Owner) -> Server:
        """Raises `MpsFailed`."""
        who = "own" if owner.uid is None else str(owner.uid)
        number = 1 + max((int(one.folder.name.rpartition("-")[2]) for one in self._servers), default=0)
        server = Server(device.index, owner, self._folder / f"{device.index}-{who}-{number}")
        start, quit = self._mps.start, self._mps.quit
        try:
            server.pid = await self._call(lambda: start(server.folder, device.uuid, owner))
        except MpsFailed:
            await self._call(lambda: quit(server.folder, owner))
            raise
        server.started = mps.started_at(server.pid)
        self._servers.append(server)
        log.info("MPS server started", extra={"device": device.index, "user": who, "pid": server.pid})
        return server

    async def _look(self, server: Server) -> None:
        ask = self._mps.servers
        try:
            states = await self._call(lambda: ask(server.folder, server.owner))
            broken = [f"is in state {state}" for state in states.values() if state == "FAULT"]
        except MpsFailed as problem:
            gone = not mps.alive(server.pid, server.started)
            broken = ["has died" if gone else f"does not answer ({problem.message})"]
        if broken and not server.trouble and server in self._servers:
            name = f"the MPS server of device {server.index}"
            server.trouble = f"{name} {broken[0]}, and its clients end with it"
            log.error("MPS server", extra={"problem": server.trouble, "members": len(server.members)})

    async def _end(self, server: Server) -> None:
        if server not in self._servers:
            return
        self._servers.remove(server)
        await self._call(lambda: self._mps.quit(server.folder, server.owner))
        log.info("MPS server ended", extra={"device": server.index, "pid": server.pid})

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _gid_of(folder: Path) -> int | None:
    try:
        return (folder / "pipe").stat().st_gid
    except OSError:
        return None
