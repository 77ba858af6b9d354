"""Taking a backup beside a running daemon, trying one, and auditing the books where they are.

Why     SQLite's own backup reads one consistent view while others write, so nothing has to stop. All in one
        step: a copy in several begins anew at every commit, and a busy daemon would never let it end.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bursar.clock import Clock, format_instant
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursard.backup import archive, places
from bursard.backup.archive import Manifest
from bursard.backup.inspect import Report, inspect, inspect_with
from bursard.startup import RESUMPTION
from bursard.store import LogHead, eventfile, headfile, schema
from bursard.store.home import DATABASE

_HEADROOM_BYTES = 64 << 20
"""Left free beside the copy: the daemon writes meanwhile."""


def take(state_dir: Path, out: Path, clock: Clock, version: str) -> tuple[Manifest, Report]:
    """Write a verified backup of the books in `state_dir` to `out`, beside whoever uses them.

    Raises:
        InvalidRequest: there are no books, or `out` cannot be.
        BursarError: the copy is damaged; nothing was written.
    """
    directory = places.daemon_directory(state_dir)
    if out.is_dir():
        raise InvalidRequest(f"--out: {out} is a directory; name a file in it")
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"--out: {out.absolute().parent} is not there; make it first")
    _refuse_harm(directory, out.absolute())
    with _copied(directory, out.absolute().parent) as copy:
        manifest = _describe(copy / DATABASE, places.layout_of(directory), clock, version)
        tried = copy / "tried"
        tried.mkdir(mode=0o700)
        shutil.copyfile(copy / DATABASE, tried / DATABASE)
        report = inspect(tried)
        if report.damage:
            raise BursarError(
                f"the books in {directory} are damaged, so no backup was made: {_some(report.damage)}; keep a"
                " copy of the directory and restore an older backup: `bursar restore FILE --state-dir DIR`"
            )
        archive.write(out.absolute(), copy / DATABASE, manifest)
    return manifest, report


def _refuse_harm(directory: Path, out: Path) -> None:
    """A backup takes the place of nothing but an older backup, and does not lie with what it is a copy of."""
    folder, own = out.parent.resolve(), {directory.resolve()}
    if places.layout_of(directory) == places.UP:
        own.add(directory.resolve().parent)
    for books in (folder, *folder.parents):
        if books in own or (books == folder and (books / DATABASE).exists()):
            raise InvalidRequest(
                f"--out: {out} lies in {books}, a state directory of a bursard; name a file outside of it,"
                " best on another disk"
            )
    if os.path.lexists(out):
        try:
            archive.read_manifest(out)
        except BursarError:
            raise InvalidRequest(
                f"--out: {out} is there and is no backup; name another file, or move it away"
            ) from None


def _some(problems: tuple[str, ...]) -> str:
    return "; ".join(problems[:3])


def drill(file: Path) -> tuple[Manifest, Report]:
    """Restore a backup aside, open it, replay it, check it. Raises `BursarError` when it cannot be opened."""
    archive.read_manifest(file)
    with _aside(file.absolute().parent, file) as folder:
        manifest = archive.extract(file, folder)
        report = inspect_with(folder, manifest)
    return manifest, report


def _audit_archive(file: Path) -> Report:
    """Chain and ends of an archive; the charges of its events stand in the database it came from."""
    if problems := eventfile.check(file):
        return Report(damage=tuple(problems))
    contents = eventfile.read_contents(file)
    return Report(cluster_id=contents.cluster_id, seq=contents.last_seq, hash=contents.last_hash)


def audit(place: Path) -> Report:
    """Check the books of a state directory, beside whoever uses them, those in a backup, or an archive."""
    if place.is_file() and eventfile.is_archive(place):
        return _audit_archive(place)
    if place.is_file():
        return drill(place)[1]
    directory = places.daemon_directory(place)
    known = _head_of(directory)
    try:
        with _copied(directory, directory) as copy:
            report = _of_original(inspect(copy), copy, directory)
            found = () if known is None else tuple(_against(known, directory, copy, report))
            blind = tuple(_headless(directory, copy, report)) if known is None else ()
    except StoreUnavailable as error:
        if isinstance(error.__cause__, sqlite3.DatabaseError) and not _is_of_now(error.__cause__):
            return Report(damage=(error.message,))
        raise
    return msgspec.structs.replace(
        report, damage=(*report.damage, *found), findings=(*report.findings, *blind)
    )


def _is_of_now(error: sqlite3.DatabaseError) -> bool:
    """A lock, a full disk or a missing right, and no damage."""
    return isinstance(error, sqlite3.OperationalError)


def _of_original(report: Report, copy: Path, original: Path) -> Report:
    """What was found in a copy, said of the original."""
    damage, findings = (
        tuple(one.replace(str(copy), str(original)) for one in said)
        for said in (report.damage, report.findings)
    )
    return msgspec.structs.replace(report, damage=damage, findings=findings)


def _headless(directory: Path, copy: Path, report: Report) -> Iterator[str]:
    """P2 cannot be checked without the head; books that were just put back have none yet."""
    if report.seq == 0 or report.damage:
        return
    connection = schema.connect(copy / DATABASE, read_only=True)
    try:
        resumes = connection.execute("select value from meta where key = ?", (RESUMPTION,)).fetchone()
    finally:
        connection.close()
    if resumes is None or not resumes[0]:
        head = directory / headfile.NAME
        how = "is damaged" if os.path.lexists(head) else "is gone"
        yield (
            f"{head} {how}: were events cut off the end of the log, nothing here would show it; compare that"
            f" end, event {report.seq}, with the newest backup's; the next start writes the file anew"
        )


def _head_of(directory: Path) -> LogHead | None:
    try:
        return headfile.parse((directory / headfile.NAME).read_bytes())
    except OSError:
        return None


def _against(known: LogHead, directory: Path, copy: Path, report: Report) -> Iterator[str]:
    """P2: the head was read before the copy was made, so the copy may only be longer."""
    if known.seq > report.seq:
        yield headfile.shorter(directory / DATABASE, known, report.seq).message
        return
    connection = schema.connect(copy / DATABASE, read_only=True)
    try:
        row = connection.execute("select hash from events where seq = ?", (known.seq,)).fetchone()
    finally:
        connection.close()
    if known.seq and row is not None and bytes(row[0]) != known.hash:
        yield headfile.different(directory / DATABASE, known).message


@contextmanager
def _copied(directory: Path, beside: Path) -> Iterator[Path]:
    """A consistent copy of a database in a directory of its own."""
    source = directory / DATABASE
    with _aside(beside, source) as folder:
        try:
            reading = schema.connect(source, read_only=True)
            try:
                schema.version_of(reading, source)
                writing = sqlite3.connect(folder / DATABASE)
                try:
                    reading.backup(writing)
                finally:
                    writing.close()
            finally:
                reading.close()
        except schema.FAULTS as error:
            raise schema.unavailable(error, source) from error
        yield folder


@contextmanager
def _aside(place: Path, original: Path) -> Iterator[Path]:
    """A private folder on a disk with room for a copy of `original`, gone afterwards."""
    try:
        wal = original.with_name(f"{original.name}-wal")
        size = original.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        needed = 2 * size + _HEADROOM_BYTES
        free = shutil.disk_usage(place).free
        if free < needed:
            raise StoreUnavailable(
                f"{place} has {free // 1_000_000} MB free, a copy of {original} needs {needed // 1_000_000};"
                " free some space there"
            )
        folder = Path(tempfile.mkdtemp(prefix=".bursar-copy-", dir=place))
    except OSError as error:
        raise BursarError(f"no copy of {original} can be made in {place}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe(database: Path, layout: str, clock: Clock, version: str) -> Manifest:
    facts = archive.facts_of(database)
    return Manifest(
        format=archive.FORMAT,
        version=version,
        created_at=format_instant(clock.now()),
        **msgspec.structs.asdict(facts),
        layout=layout,
        database_bytes=os.stat(database).st_size,
        database_sha256=archive.digest_of(database),
    )
