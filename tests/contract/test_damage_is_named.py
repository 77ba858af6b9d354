"""What a start and an audit say of books of which one value is another, or one row is gone: of every column.

Why     what the log says is compared with what the tables hold, column by column, each with its own sentence;
        tests of one fault each leave most comparisons to chance. What is found stands in
        tests/golden/damage.txt; written anew by `BURSAR_GOLDEN=write pytest
        tests/contract/test_damage_is_named.py`, and read before it is kept. "nothing" there is a value that
        nobody depends on.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import whole_site
from google.protobuf import text_format
from inhabited import POLICIES, add_node, begin, end, failed
from whole_site import Site

from bursar.clock import DAY_US
from bursar.model import ArraySpec, EndCause
from bursar.v1 import access_pb2, money_pb2
from bursard.backup import audit, inspect
from bursard.store import SqliteStore, days

GOLDEN = Path(__file__).parents[1] / "golden/damage.txt"
LEFT_ALONE = ("sqlite_", "_sqlite_migrations")


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site in which things were charged, corrected, closed, granted and kept secret, and stopped."""
    directory = tmp_path_factory.mktemp("kept") / "books"

    async def life(site: Site) -> None:
        token = site.token("ann", "admin")
        files = [money_pb2.PolicySource(name="all.yaml", text=POLICIES)]
        done = site.job("ann", "nlp", name="done", experiment="e", model="m", labels=(("k", "v"),))
        assert await site.call("Policies.Apply", money_pb2.ApplyRequest(sources=files), token=token) == (
            "OK",
            "",
        )
        add_node(site, "g1", 2)
        end(site, begin(site, done), failed(0, cause=EndCause.COMPLETED))
        end(site, begin(site, site.job("bob", "nlp/a", name="code")), failed(3))
        array = site.job("ann", "nlp", name="array", array=ArraySpec(((0, 2, 1),), 1))
        end(site, begin(site, f"{array}.0"), failed(0, cause=EndCause.COMPLETED))
        secret = access_pb2.SetSecretRequest(name="S", project="nlp", value=b"v")
        assert await site.call("Access.SetSecret", secret, token=token) == ("OK", "")
        grant = access_pb2.GrantRequest(user="eve", role="viewer", project="nlp")
        assert await site.call("Access.Grant", grant, token=token) == ("OK", "")
        correct = money_pb2.CorrectRequest()
        text_format.Merge('job: "code" to_ppm: 500000 reason: "r"', correct)
        assert await site.call("Money.Correct", correct, token=token) == ("OK", "")
        begin(site, site.job("ann", "nlp", name="running"))
        await site.engine.durable()
        await site.engine.save_snapshot()
        site.clock.advance(40 * DAY_US)
        close = money_pb2.ClosePeriodRequest(period="2026-11", force=True)
        assert await site.call("Money.ClosePeriod", close, token=token) == ("OK", "")
        site.job("ann", "nlp", name="later")
        await site.engine.durable()

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole_site, "ScratchStore", lambda: SqliteStore(directory))
            patch.setattr(days, "DAY_ROWS", 1)
            patch.setattr(days, "BATCH_ROWS", 2)
            folder = tmp_path_factory.mktemp("s")
            async with Site(str(folder)) as site:
                await life(site)

    asyncio.run(main())
    return directory


def tables(database: Path) -> dict[str, list[str]]:
    with sqlite3.connect(database) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'table' order by name"
            )
            if not name.startswith(LEFT_ALONE)
        ]
        return {name: [row[1] for row in connection.execute(f"pragma table_info({name})")] for name in names}


def other(column: str) -> str:
    """An expression of another value of the same kind."""
    return (
        f"case typeof({column}) when 'integer' then {column} + 1 when 'text' then {column} || 'x'"
        f" when 'blob' then zeroblob(1) || substr({column}, 2) else 1 end"
    )


def damages(table: str, columns: list[str]) -> dict[str, str]:
    """By what is told of them: the value of one column another in the first row, and the last row gone."""
    first, last = (f"(select {end}(rowid) from {table} where {{}})" for end in ("min", "max"))
    found = {
        f"{table}.{column}": f"update {table} set {column} = {other(column)} where rowid ="
        f" {first.format(f'{column} is not null')}"
        for column in columns
    }
    return found | {f"{table} without its last": f"delete from {table} where rowid = {last.format('true')}"}


def said_of(books: Path, place: Path, damage: str) -> str:
    """What the start says, or the whole check, once this was done to a copy."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(books, place)
    connection = sqlite3.connect(place / "bursard.db", isolation_level=None)
    triggers = [
        name for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'")
    ]
    kept = [sql for (sql,) in connection.execute("select sql from sqlite_master where type = 'trigger'")]
    for name in triggers:
        connection.execute(f"drop trigger {name}")
    try:
        changed = connection.execute(damage).rowcount
    except sqlite3.Error as error:
        return f"  cannot be: {error}\n"
    finally:
        for sql in kept:
            connection.execute(sql)
        connection.close()
    if not changed:
        return "  there is none\n"
    lines = inspect(place).problems or [f"audit: {one}" for one in audit(place).problems] or ["nothing"]
    return "".join(f"  {one[:300]}\n" for one in lines[:6]).replace(str(place), "DIR")


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def keep(found: dict[str, str]) -> None:
    GOLDEN.write_text("".join(f"=== {each}\n{found[each]}" for each in sorted(found)))


def test_the_books_of_these_tests_are_sound(books: Path) -> None:
    assert inspect(books).problems == audit(books).problems == ()
    if os.environ.get("BURSAR_GOLDEN") == "write":  # a new table is filled in by the next run
        keep(dict.fromkeys(tables(books / "bursard.db"), "") | sections())
    assert set(tables(books / "bursard.db")) == set(sections())


@pytest.mark.parametrize("table", sections())
def test_whatever_is_changed_in_the_books_is_named_or_is_nobodys(
    table: str, books: Path, tmp_path: Path
) -> None:
    done = damages(table, tables(books / "bursard.db")[table])
    found = "".join(f"{name}\n{said_of(books, tmp_path / 'books', sql)}" for name, sql in done.items())
    found = re.sub(r"[0-9a-f]{32,}", "HASH", found)
    if os.environ.get("BURSAR_GOLDEN") == "write":
        keep(sections() | {table: found})
    assert found == sections()[table], "see the head of this file"
