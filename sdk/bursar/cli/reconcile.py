"""A provider's bill held against the books: by machine and hour, and what matches nothing on either side.

Owns    reading a FOCUS file (CSV, `.gz` as it is) of a provider, and matching it with `report focus` of the
        same time. What the books say is the estimate, what the file says is final; neither changes the other.
Why     a total that ties may hide two errors, so every machine and hour is held against its own. Sums are
        exact decimals. A cell that cannot be read would shift the sums: the file is refused, with all faults.
Limits  what a provider charges for more than an hour at once matches no hour; it is told as the provider's,
        with its hours: no more of them than the period has, whatever it is charged for.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Context, Decimal, Inexact, localcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import click

from bursar.cli.common import connected, fail, listing
from bursar.cli.groups import NearChoice, nearest
from bursar.cli.output import Column, Output, Row, emit, say
from bursar.cli.terminal import money_text
from bursar.clock import HOUR_US, format_instant, parse_instant
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.smallfile import check_columns
from bursar.words import decimal_of, plural

if TYPE_CHECKING:
    from bursar.client import WireClient
    from bursar.v1 import money_pb2

BYTES_MAX: Final = 2 << 30
"""Of a file, unpacked."""
ROWS_MAX: Final = 5_000_000
CELL_MAX: Final = 65_536
FAULTS_SHOWN: Final = 20
PART_LINES: Final = 1_000
PART_BYTES: Final = 800_000
"""A message is at most 1 MiB."""
PARTS_MAX: Final = 1_000
"""Of a bill that is kept."""
PLACES: Final = 9
_EXACT: Final = Context(prec=80)
_NANO: Final = Decimal(10) ** -PLACES
_ZERO: Final = Decimal(0)
NO_RESOURCE: Final = "(no resource)"
"""What a line of a bill is of that names none, such as a credit, a tax or support, nor whose it is."""
WHOSE: Final = ("ChargeCategory", "InvoiceIssuerName", "BillingAccountId")
"""By which such a line is known again, in another file too."""
WHOSE_MAX: Final = 200
NEEDED: Final = ("ResourceId", "ChargePeriodStart", "ChargePeriodEnd", "BillingCurrency")
NODE_TAG: Final = "bursar-node"
"""A tag of the provider's that names the node, where no other name does."""

Key = tuple[str, int]
"""A machine's name, and the hour that it is of."""


class Bill(NamedTuple):
    """What a file says. `names`: by resource, what else it is called. `left_out`: outside of the period.

    `longer`: by resource and begin, of more than an hour: the amount, and how many hours.
    """

    amounts: Mapping[Key, Decimal]
    longer: Mapping[Key, tuple[Decimal, int]]
    names: Mapping[str, frozenset[str]]
    currency: str
    left_out: int


class Faults:
    """What is wrong with a file: the first few, and how many more there are."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.more = 0

    def append(self, fault: str) -> None:
        """Another one."""
        if len(self.first) < FAULTS_SHOWN:
            self.first.append(fault)
        else:
            self.more += 1

    def refuse(self, file: str) -> None:
        """Raise `InvalidRequest`, where there is any."""
        if self.first:
            shown = "\n  ".join(self.first)
            rest = f"\n  and {self.more} more" if self.more else ""
            raise InvalidRequest(f"{file} cannot be held against the books:\n  {shown}{rest}")


def open_bill(file: str) -> IO[str]:
    """The text of a file, as it is read. Raises `InvalidRequest`."""
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 (whoever reads closes it; once: a pipe is not read twice)
        packed = stream.peek(2)[:2] == b"\x1f\x8b"
        plain: Any = stream
        if packed:
            plain = gzip.GzipFile(fileobj=stream)
            plain.myfileobj = stream  # so that it is closed with it
        return io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror or error}") from None


def read_bill(file: str, lines: IO[str], cost: str, since: int, until: int) -> Bill:
    """The machines of a provider's file, by hour; `cost`: the column that counts.

    Raises:
        InvalidRequest: with every fault: its line, its column, what is wrong and what would be right.
    """
    faults = Faults()
    amounts: dict[Key, Decimal] = {}
    longer: dict[Key, tuple[Decimal, int]] = {}
    names: dict[str, set[str]] = {}
    currencies: dict[str, int] = {}
    left_out = 0
    with localcontext(_EXACT):
        for line, row in _rows(file, lines, cost, faults):
            resource = row["ResourceId"].strip() or _whose(row)
            start, end = (_instant(row[name], line, name, faults) for name in NEEDED[1:3])
            amount = _amount(row[cost], line, cost, faults)
            if start is None or end is None or amount is None:
                continue
            if not (currency := row["BillingCurrency"].strip()):
                faults.append(f"{line}: BillingCurrency: is empty; every line says in which currency it is")
            currencies.setdefault(currency, line)
            if end <= start:
                faults.append(f"{line}: ChargePeriodEnd: is not after ChargePeriodStart")
            elif not (since <= start < until):
                left_out += 1
            else:
                key = (resource, start - start % HOUR_US)
                if end - key[1] > HOUR_US:
                    before, most = longer.get((resource, start), (_ZERO, 0))
                    hours = _hours(min(end - start, until - since))
                    longer[resource, start] = (before + amount, max(most, hours))
                else:
                    amounts[key] = amounts.get(key, _ZERO) + amount
                names.setdefault(resource, set()).update(_called(row))
    if len(currencies) > 1:
        told = " and ".join(f"{name} (line {line})" for name, line in sorted(currencies.items()))
        faults.append(f"BillingCurrency: is {told}; one bill is in one currency")
    faults.refuse(file)
    currency = next(iter(currencies), "")
    called = {name: frozenset(found) for name, found in names.items()}
    return Bill(amounts, longer, called, currency, left_out)


def _hours(length_us: int) -> int:
    """The hours that one takes, the last of them perhaps in part."""
    return -(-length_us // HOUR_US)


def _rows(file: str, lines: IO[str], cost: str, faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines with their numbers; those that are no rows are faults."""
    csv.field_size_limit(CELL_MAX)
    reader = csv.reader(_bounded(file, lines), strict=True)
    try:
        head = next(reader, [])
        check_columns(head, f"{file}: ")
        for name in (*NEEDED, cost):
            if name not in head:
                near = nearest(name, head) if head else "the file is empty"
                faults.append(f"1: {name}: there is no such column; {near[:200]}")
        for name, count in Counter(head).items():
            if count > 1 and name:
                faults.append(f"1: {name[:60]}: the column is there {count} times, and none of them counts")
        if faults.first:
            return
        for count, cells in enumerate(reader, 1):
            if count > ROWS_MAX:
                raise InvalidRequest(f"{file} has more than {ROWS_MAX} rows; reconcile it in parts")
            if len(cells) != len(head):
                faults.append(f"{reader.line_num}: has {len(cells)} cells; the head has {len(head)}")
            else:
                yield reader.line_num, dict(zip(head, cells, strict=True))
    except csv.Error as error:
        faults.append(f"{reader.line_num}: is not CSV: {error}")
    except UnicodeDecodeError:
        faults.append(f"{reader.line_num + 1}: is not UTF-8")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        faults.append(f"{reader.line_num + 1}: the gzip file is damaged from here on")


def _bounded(file: str, lines: IO[str]) -> Iterator[str]:
    size = 0
    while line := lines.readline(CELL_MAX * 100):
        size += len(line)
        if size > BYTES_MAX:
            raise InvalidRequest(f"{file} has more than {BYTES_MAX >> 30} GiB; reconcile it in parts")
        yield line


def _instant(text: str, line: int, column: str, faults: Faults) -> int | None:
    try:
        return int(parse_instant(text))
    except InvalidRequest:
        faults.append(f"{line}: {column}: {text[:40]!r} is no time, such as 2026-10-01T00:00:00Z")
        return None


def _amount(text: str, line: int, column: str, faults: Faults) -> Decimal | None:
    found = decimal_of(text.strip())
    if found is None or abs(found.adjusted()) > 30:
        faults.append(f"{line}: {column}: {text[:40]!r} is no amount, such as 12.345")
        return None
    return found


def _whose(row: Mapping[str, str]) -> str:
    """What a row is called that names no resource: by whose it is, where it says so."""
    said = [text for name in WHOSE if (text := row.get(name, "").strip())]
    if not said or any(_called(row)):
        return ""
    text = "".join(letter if letter.isprintable() else "?" for letter in ", ".join(said))
    return f"{NO_RESOURCE[:-1]}: {text[:WHOSE_MAX]})"


def _called(row: Mapping[str, str]) -> Iterator[str]:
    """What a resource is called beside its id."""
    if name := row.get("ResourceName", "").strip():
        yield name
    if (tags := row.get("Tags", "")).startswith("{"):
        try:
            found = json.loads(tags)
        except (ValueError, RecursionError):
            return
        tag = found.get(NODE_TAG) if isinstance(found, dict) else None
        if isinstance(tag, str) and tag:
            yield tag


class Books(NamedTuple):
    """What `report focus` says of machines of providers: amounts, and what each is called. `currency`."""

    amounts: Mapping[Key, Decimal]
    called: Mapping[str, str]
    currency: str


def read_books(lines: Iterable[str], cost: str) -> Books:
    """Our own export, of machines that somebody else rents out; by node id and hour."""
    amounts: dict[Key, Decimal] = {}
    called: dict[str, str] = {}
    currency = ""
    with localcontext(_EXACT):
        for row in csv.DictReader(lines):
            currency = row["BillingCurrency"]
            if row["HostProviderName"] == row["InvoiceIssuerName"] or row["ResourceType"] == "Commitment":
                continue
            node, start = row["ResourceId"], int(parse_instant(row["ChargePeriodStart"]))
            key = (node, start - start % HOUR_US)
            amounts[key] = amounts.get(key, Decimal()) + Decimal(row[cost])
            called[node] = row["ResourceName"]
    return Books(amounts, called, currency)


class _Nodes:
    """Which node a resource of a bill is, by its id or by what it is called."""

    def __init__(self, books: Books) -> None:
        self._amounts = books.amounts
        self._called: dict[str, set[str]] = {}
        for node, name in books.called.items():
            self._called.setdefault(name, set()).add(node)
            self._called.setdefault(node, set()).add(node)

    def of(self, names: Iterable[str], hour: int) -> str | None:
        """The node of that name; of several that had it one after another, the one that the books have in
        this hour. None: there is none, or it cannot be told which.
        """
        for name in sorted(names):
            nodes = self._called.get(name, set())
            if len(nodes) > 1:
                nodes = {node for node in nodes if (node, hour) in self._amounts}
            if len(nodes) == 1:
                return next(iter(nodes))
        return None


def matched(bill: Bill, books: Books) -> list[Row]:
    """A row for each machine and hour of either side, in that order: what it is in both, or in one alone."""
    nodes = _Nodes(books)
    final: dict[Key, Decimal] = {}
    found: list[Row] = []
    with localcontext(_EXACT):
        for (resource, hour), (amount, hours) in bill.longer.items():
            called = {resource, *bill.names.get(resource, ())}
            within = (nodes.of(called, hour - hour % HOUR_US + n * HOUR_US) for n in range(hours))
            node = next(filter(None, within), None)
            # Called as its hours are: by another name it would be another machine, and be kept twice.
            name = resource if node is None else books.called[node]
            one = _row(name, hour, "provider-only", None, amount, bill.currency)
            found.append({**one, "hours": hours})
        for (resource, hour), amount in bill.amounts.items():
            node = nodes.of({resource, *bill.names.get(resource, ())}, hour)
            if node is None:
                found.append(_row(resource, hour, "provider-only", None, amount, bill.currency))
            else:
                final[node, hour] = final.get((node, hour), Decimal()) + amount
        for key in {*final, *books.amounts}:
            node, hour = key
            state = "matched" if key in final and key in books.amounts else "provider-only"
            if key not in final:
                state = "books-only"
            name = books.called[node]
            found.append(_row(name, hour, state, books.amounts.get(key), final.get(key), bill.currency))
    return sorted(found, key=lambda row: (row["resource"], row["hour_start"], row["state"]))


def _row(
    name: str, hour: int, state: str, estimate: Decimal | None, final: Decimal | None, currency: str
) -> Row:
    # To the nano first: a variance is of what is shown and kept, and nothing is below nothing.
    estimate, final = (None if one is None else one.quantize(_NANO) + _ZERO for one in (estimate, final))

    def money(amount: Decimal | None) -> Row | None:
        return None if amount is None else {"amount": f"{amount:f}", "currency": currency}

    return {
        "resource": name or NO_RESOURCE,
        "hour_start": format_instant(hour),
        "state": state,
        "hours": 1,
        "estimate": money(estimate),
        "final": money(final),
        "variance": money((final or _ZERO) - (estimate or _ZERO)),
    }


def by_resource(rows: Iterable[Row]) -> list[Row]:
    """The same by machine and state: so many hours, and the sums."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        one = found.get((row["resource"], row["state"]))
        if one is None:
            found[row["resource"], row["state"]] = {key: row[key] for key in row if key != "hour_start"}
            continue
        one["hours"] += row["hours"]
        for name in ("estimate", "final", "variance"):
            one[name] = _plus(one[name], row[name])
    return list(found.values())


def _plus(one: Row | None, other: Row | None) -> Row | None:
    if one is None or other is None:
        return one or other
    with localcontext(_EXACT) as context:
        context.traps[Inexact] = True
        total = Decimal(one["amount"]) + Decimal(other["amount"])
    return {**one, "amount": f"{total:f}"}


def summary(rows: Iterable[Row], tolerance: Decimal, sure: Callable[[str], Row]) -> Row:
    """The sums of all states, how many hours of each, and how many differ by more than the tolerance."""
    total: Row = {
        "estimate": sure("0"), "final": sure("0"), "variance": sure("0"), "matched": 0, "books_only": 0,
        "provider_only": 0, "differing": 0,
    }  # fmt: skip
    for row in rows:
        total[row["state"].replace("-", "_")] += row["hours"]
        for name in ("estimate", "final", "variance"):
            total[name] = _plus(total[name], row[name])
        if row["state"] == "matched":
            total["differing"] += abs(Decimal(row["variance"]["amount"])) > tolerance
    return total


def parts_of(rows: Iterable[Row]) -> Iterator[list[money_pb2.BillLine]]:
    """What is kept of a bill, in as many lines as a part may have: of a machine the hours in which both sides
    agree to the nano, where they follow each other, as one; each other hour by itself.
    """
    from bursar.v1 import money_pb2, types_pb2

    same: dict[str, money_pb2.BillLine] = {}
    lines: list[money_pb2.BillLine] = []
    for row in rows:
        hour = int(parse_instant(row["hour_start"]))
        line = money_pb2.BillLine(resource=row["resource"], hour=hour, hours=row["hours"])
        for name, field in (("estimate", line.estimate), ("final", line.final)):
            if row[name] is not None:
                field.CopyFrom(types_pb2.Amount(nanos=str(_nanos(row[name]))))
        agreed = row["state"] == "matched" and not _nanos(row["variance"])
        one = same.get(row["resource"]) if agreed else None
        if one is None or one.hour + one.hours * HOUR_US != hour:
            lines.append(line)
            if agreed:
                same[row["resource"]] = line
            continue
        one.hours += 1
        for field in (one.estimate, one.final):
            field.nanos = str(int(field.nanos) + _nanos(row["final"]))
    return _portions(lines)


def _portions(lines: Iterable[money_pb2.BillLine]) -> Iterator[list[money_pb2.BillLine]]:
    """As many at once as a part and a message take."""
    part: list[money_pb2.BillLine] = []
    size = 0
    for line in lines:
        more = line.ByteSize() + 8
        if part and (len(part) == PART_LINES or size + more > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += more
    if part:
        yield part


def _nanos(money: Row) -> int:
    with localcontext(_EXACT):
        return int(Decimal(money["amount"]).scaleb(PLACES))


def keep(
    client: WireClient, file: str, period: str, cost: str, currency: str, rows: list[Row], replace: str = ""
) -> int:
    """Keep them under what the file is called, in the place of another one's; how many parts were new."""
    from bursar.v1 import money_pb2

    said = json.dumps([Path(file).name, period, cost, currency, rows], sort_keys=True)
    name = hashlib.sha256(said.encode()).hexdigest()
    parts = list(parts_of(rows))
    if len(parts) > PARTS_MAX:
        raise InvalidRequest(f"{file}: more than {PARTS_MAX * PART_LINES} hours differ; keep it day by day")
    return sum(
        client.keep_bill(
            money_pb2.KeepBillRequest(
                name=name, source=Path(file).name, period=period, currency=currency, cost=cost, part=at,
                parts=len(parts), lines=lines, replaces=replace,
            )
        )
        for at, lines in enumerate(parts)
    )  # fmt: skip


RECONCILED_COLUMNS = (
    Column("resource", shrink=True),
    Column("hour_start", shrink=True, missing="all"),
    Column("state"),
    Column("hours", right=True, drop=1),
    Column("estimate", right=True),
    Column("final", right=True),
    Column("variance", right=True),
)


@click.command("reconcile")
@click.argument("file", metavar="FILE")
@click.option("--period", required=True, metavar="P", help="2026-11, 2026-11-21, last-month.")
@click.option(
    "--by",
    type=NearChoice(["resource", "hour"]),
    default="resource",
    show_default=True,
    help="What a row is of.",
)
@click.option(
    "--cost", type=NearChoice(["EffectiveCost", "BilledCost"]), default="EffectiveCost", show_default=True,
    help="The column that counts.",
)  # fmt: skip
@click.option(
    "--tolerance", default="0.01", show_default=True, metavar="N", help="Of an hour, in the currency."
)
@click.option("--keep", "kept", is_flag=True, help="Keep it in the books: `report bills` tells it again.")
@click.option("--replace", default="", metavar="SOURCE", help="With --keep: in the place of that kept file.")
@listing
@connected
def report_reconcile(
    client: WireClient,
    file: str,
    period: str,
    by: str,
    cost: str,
    tolerance: str,
    kept: bool,
    replace: str,
    output: Output,
) -> None:
    """Hold a provider's FOCUS file against the books, by machine and hour.

    The books' amounts are estimates, the file's are final; both are shown, and neither is changed. A resource
    is a node's if its id, its name or its tag bursar-node is the node's name or id. What only one side has is
    told too. With --keep all of it is written down, for finance: the newest file of a name and period counts,
    and hours that another kept file has, in rows of any length, are refused, or count in its place with
    --replace; so are credits and taxes that another one has of the same account, time and amount.
    Ends with 1 where an hour differs by more than the tolerance, or where one side lacks something.

    Example: bursar report reconcile aws-2026-10.csv.gz --period 2026-10 --by hour -o csv
    """
    most = decimal_of(tolerance)
    if most is None or most < 0:
        raise InvalidRequest(f"--tolerance: {tolerance!r} is no amount of 0 or more, such as 0.01")
    if replace and not kept:
        raise InvalidRequest("--replace: says in whose place a file is kept; give --keep too")
    first = view.cost(client.cost(by=["project"], period=period, top=1), ["project"])
    since, until = int(parse_instant(first["since"])), int(parse_instant(first["until"]))
    with open_bill(file) as lines:
        bill = read_bill(file, lines, cost, since, until)
    books = read_books(_focus_lines(client, period), cost)
    currency = books.currency or first["currency"]
    if bill.currency and bill.currency != currency:
        raise InvalidRequest(
            f"{file} is in {bill.currency}, and the books are in {currency}; convert it first"
        )
    rows = matched(bill._replace(currency=currency), books)

    def amount(text: str) -> Row:
        return {"amount": f"{Decimal(text):.9f}", "currency": currency}

    total = summary(rows, most, amount)
    if kept and rows:
        new = keep(client, file, first["period"], cost, currency, rows, replace)
        say(f"kept: `bursar report bills --period {period}`" if new else "kept before, just so")
    shown = rows if by == "hour" else by_resource(rows)
    document = {
        "period": first["period"],
        "cost": cost,
        "rows": shown,
        "total": total,
        "outside": bill.left_out,
    }
    emit(
        shown,
        RECONCILED_COLUMNS,
        output,
        identity="resource",
        document=document,
        empty="nothing on either side",
    )
    say(
        f"estimate {money_text(total['estimate'])}, final {money_text(total['final'])}, variance"
        f" {money_text(total['variance'])}; hours: {total['matched']} matched, {total['differing']} differ,"
        f" {total['books_only']} in the books only, {total['provider_only']} of the provider only;"
        f" {plural(bill.left_out, 'row')} outside of the period"
    )
    if total["differing"] or total["books_only"] or total["provider_only"]:
        raise fail(1)


def _focus_lines(client: WireClient, period: str) -> Iterator[str]:
    """The books' own export, line by line."""
    rest = b""
    for chunk in client.report("focus", period, format="csv", focus_version="1.4"):
        *whole, rest = (rest + chunk.data).split(b"\n")
        yield from (line.decode() + "\n" for line in whole)
    if rest:
        yield rest.decode()
