"""`prices import`: every price of a table as a fact that the daemon reads, or a fault with its line."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.cli.pricefile import BOOK_BYTES, FIXED, Imported, read_table
from bursar.errors import InvalidRequest
from bursar.yamlfile import BYTES_MAX
from bursar_policies.document import parse_documents
from bursar_policies.specs import PriceBookSpec, PriceRow

AWS = {"provider": "aws", "region": "us-east-1", "market": "on-demand", "currency": "USD"}
FULL = (
    "provider,region,instance_type,market,price,currency,valid_from,valid_until,cpus,memory,gpu_type,gpus,"
    "gpu_memory\n"
    "aws,us-east-1,p5.48xlarge,spot,12.5,USD,2026-01-01,2027-01-01,192,2TiB,H100,8,80GB\n"
    "gcp,us-central1,e2-small,on-demand,0.01675,USD,2026-02-03T04:05:06Z,,0.5,2GB,,0,\n"
)


def table(tmp_path: Path, text: str | bytes, fixed: dict[str, str] | None = None, **more: Any) -> Imported:
    file = tmp_path / "my prices 2026.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    asked = {"columns": {}, "source": "a table", "skip_unpriced": False} | more
    return read_table(str(file), AWS if fixed is None else fixed, **asked)


def facts(found: Imported) -> list[PriceRow]:
    """As the daemon reads them."""
    rows: list[PriceRow] = []
    for book in found.books:
        assert len(book.text.encode()) <= BYTES_MAX
        [document] = parse_documents(book.text, book.name)
        assert isinstance(document.spec, PriceBookSpec)
        assert (document.name, len(document.spec.prices)) == (book.name, book.rows)
        assert document.spec.source.startswith("a table")
        rows += document.spec.prices
    return rows


def refused(tmp_path: Path, text: str | bytes, **more: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        table(tmp_path, text, **more)
    return str(caught.value).replace(str(tmp_path), "DIR")


def test_every_part_of_a_line_becomes_part_of_the_fact(tmp_path: Path) -> None:
    found = table(tmp_path, FULL, fixed={"currency": "USD"})
    assert [book.name for book in found.books] == [
        "my-prices-2026-aws-us-east-1-spot", "my-prices-2026-gcp-us-central1-on-demand",
    ]  # fmt: skip
    first, second = facts(found)
    assert first == PriceRow(
        "aws", "us-east-1", "p5.48xlarge", "spot", 12_500_000_000, 1_767_225_600_000_000,
        1_798_761_600_000_000, 192_000, 2 << 40, "H100", 8, 80 * 10**9, "",
    )  # fmt: skip
    assert (second.instance_type, second.rate_nanos_per_hour, second.cpu_milli) == (
        "e2-small",
        16_750_000,
        500,
    )
    assert (second.gpu_type, second.gpu_count, second.valid_until) == ("", 0, 0)
    assert (found.rows, found.unpriced, found.rounded) == (2, 0, 0)


def test_what_is_said_once_and_where_columns_are_stands_for_every_line(tmp_path: Path) -> None:
    text = "vm_size,eur,ignored\nB1,0.5,x\nB2,1,y\n"
    fixed = {**AWS, "currency": "EUR", "valid_from": "2026-05-01"}
    rows = facts(table(tmp_path, text, fixed, columns={"price": "eur"}))
    assert [(one.instance_type, one.rate_nanos_per_hour) for one in rows] == [
        ("B1", 5 * 10**8),
        ("B2", 10**9),
    ]
    assert {one.valid_from for one in rows} == {1_777_593_600_000_000}
    assert {(one.provider, one.region, one.market) for one in rows} == {("aws", "us-east-1", "on-demand")}


def test_a_book_says_of_which_days_its_prices_are(tmp_path: Path) -> None:
    def sources(text: str) -> list[str]:
        found = table(tmp_path, text, source='of "us"\n')
        return [book.text.splitlines()[3].strip() for book in found.books]

    assert sources("instance_type,price\na,1\n") == ['source: "of ?us??"']
    dated = "instance_type,price,valid_from\na,1,2026-02-03\nb,1,2025-12-31\nc,1,\n"
    assert sources(dated) == ['source: "of ?us??, dated 2025-12-31 to 2026-02-03"']
    assert sources("instance_type,price,as_of\na,1,2026-02-03\n") == ['source: "of ?us??, dated 2026-02-03"']


def test_a_packed_table_is_read_as_it_is(tmp_path: Path) -> None:
    assert facts(table(tmp_path, gzip.compress(b"instance_type,price\nm5.large,0.096\n")))[
        0
    ].rate_nanos_per_hour == (96_000_000)
    assert "damaged gzip" in refused(tmp_path, gzip.compress(b"instance_type,price\n" * 99)[:40])


def test_lines_without_a_price_are_refused_and_left_out_when_asked(tmp_path: Path) -> None:
    text = "instance_type,price\na,\nb,0.0\nc,1\n"
    assert "line 2: price: there is none; leave such lines out with --skip-unpriced" in refused(
        tmp_path, text
    )
    found = table(tmp_path, text, skip_unpriced=True)
    assert ([one.instance_type for one in facts(found)], found.unpriced, found.rows) == (["c"], 2, 1)
    assert "holds no price" in refused(tmp_path, "instance_type,price\na,0\n", skip_unpriced=True)


def test_a_price_of_more_than_nine_places_is_rounded_and_counted(tmp_path: Path) -> None:
    found = table(tmp_path, "instance_type,price\na,0.1000000006\nb,0.25\n")
    assert ([one.rate_nanos_per_hour for one in facts(found)], found.rounded) == (
        [100_000_001, 250_000_000],
        1,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("instance_type,price\na,-1\n", "line 2: price: '-1' is not an amount an hour"),
        ("instance_type,price\na,NaN\n", "line 2: price: 'NaN' is not an amount"),
        ("instance_type,price\na,1e30\n", "line 2: price: '1e30' is not an amount"),
        ("instance_type,price\na,1_0\n", "line 2: price: '1_0' is not an amount"),
        ("instance_type,price\na,\u0661\u0662\n", "is not an amount an hour"),
        ("instance_type,price,valid_from\na,5,0001-01-01\n", "valid_from: '0001-01-01' is before any price"),
        ("instance_type,price\na,$5\n", "line 2: price: '$5' is not an amount"),
        ("instance_type,price\n\"a\nb\",5\n", "line 3: instance_type: 'a\\nb' is not a name"),
        ("instance_type,price\na\"},5\n", "instance_type: 'a\"}' is not a name"),
        ("instance_type,price\na,5,6\n", "line 2: has more cells than the first line"),
        ("instance_type,price\na\n", "line 2: price: there is none"),
        ("instance_type,price,market\na,5,Spot\n", "line 2: market: 'Spot' is none of on-demand, spot"),
        ("instance_type,price,currency\na,5,usd\n", "line 2: currency: 'usd' is not a currency code"),
        ("instance_type,price,valid_from\na,5,soon\n", "line 2: valid_from: 'soon' is not a time"),
        (
            "instance_type,price,valid_from,valid_until\na,5,2026-02-01,2026-01-01\n",
            "line 2: valid_until: 2026-01-01T00:00:00Z is not after valid_from",
        ),
        ("instance_type,price,cpus\na,5,many\n", "line 2: cpus: 'many' is not a number"),
        ("instance_type,price,memory\na,5,64 Gb of it\n", "line 2: memory: '64 Gb of it' is not a size"),
        ("instance_type,price,gpus\na,5,two\n", "line 2: gpus: 'two' is not a number of GPUs"),
        ("instance_type,price,gpus\na,5,2\n", "line 2: gpu_type: '' is not a GPU type"),
        ("instance_type,price\na,5\nb,6\na,7\n", "lines 2 and 4 both price on-demand a in us-east-1"),
        ("instance_type,cost\na,5\n", "no column for price; name it with --column price=HEADER"),
        ("price,price\n5,6\n", "the column 'price' is there twice"),
        ("", "there is no column for instance_type"),
        ("instance_type,price\n", "holds no price"),
        (b"instance_type,price\n\xff,5\n", "csv:2: byte 0xff is not UTF-8 text"),
        ("instance_type,price\n\"a,5\n", "is not CSV"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    fixed = {key: value for key, value in AWS.items() if key not in str(text).partition("\n")[0]}
    assert words in refused(tmp_path, text, fixed=fixed)


def test_what_no_column_and_no_option_says_is_asked_for(tmp_path: Path) -> None:
    fixed = {"currency": "USD"}
    assert "no column for provider; say it once with --provider" in refused(
        tmp_path, "instance_type,price\na,5\n", fixed=fixed
    )
    assert "there is no column 'eur'; there are: instance_type, price" in refused(
        tmp_path, "instance_type,price\na,5\n", columns={"price": "eur"}
    )
    assert set(FIXED) == {"provider", "region", "market", "currency", "valid_from"}


def test_of_many_faults_the_first_five_are_told_and_the_others_counted(tmp_path: Path) -> None:
    told = refused(tmp_path, "instance_type,price\n" + "a b,1\n" * 9)
    assert (told.count("line "), told.splitlines()[-1]) == (5, "  and 4 more lines")


def test_a_file_that_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read: Is a directory"):
        read_table(str(tmp_path), AWS, {}, source="s", skip_unpriced=False)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("eu", "us")),
            st.decimals(min_value="0.000000001", max_value=9999, places=9, allow_nan=False),
        ),
        min_size=1,
        max_size=1500,
    )
)
@example([("eu", Decimal("0.5"))] * 1_400)
def test_no_price_is_lost_or_changed_however_many_books_it_takes(
    tmp_path_factory: pytest.TempPathFactory, prices: list[tuple[str, Decimal]]
) -> None:
    lines = [f"{region},type-{number:030d},{price}" for number, (region, price) in enumerate(prices)]
    fixed = {key: value for key, value in AWS.items() if key != "region"}
    text = "region,instance_type,price\n" + "\n".join(lines)
    found = table(tmp_path_factory.mktemp("t"), text, fixed)
    read = {(one.region, one.instance_type): one.rate_nanos_per_hour for one in facts(found)}
    assert read == {
        (region, f"type-{number:030d}"): int(price.scaleb(9)) for number, (region, price) in enumerate(prices)
    }
    assert len({book.name for book in found.books}) == len(found.books)
    assert all(len(book.text) < BOOK_BYTES + 2_000 for book in found.books)
