"""Documents come back as they were written; anything else is refused or ignored."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.block_codec import BLOCK_BYTES, PART_ROWS, BlockDecoder, encode_blocks, placed_rows
from processors.document_codec import DOCUMENT_BLOCKS, DOCUMENT_SCHEMA
from processors.records import DEAD_SCHEMA
from tests.murmur2 import murmur2
from tests.processors.decode_records import batch

GENERATION = 'it\'s "1" é'
CONTENT = pa.schema([field for field in DOCUMENT_SCHEMA if field.name not in ("bucket", "row_offset")])
DOCUMENT: dict[str, Any] = {
    "account_id": 7,
    "invoice_id": 9,
    "document_state": "live",
    "document_version": 3,
    "account_since": 2,
    "invoice_bucket": 5,
    "date_issued": date(2018, 7, 16),
    "payment_dates": None,
    "inv_total": Decimal("12.3400000000"),
    "inv_items": 3,
    "unpriced_lines": 1,
    "lines": [
        {"item_id": 'a"b\\é\n', "quantity": 2, "price": Decimal("6.1700000000")},
        {"item_id": "", "quantity": 1, "price": None},
    ],
    "source_ts": datetime(2026, 1, 1, 0, 0, 0, 123456, UTC),
}
BARE = DOCUMENT | {
    "document_state": "deleted",
    "inv_total": Decimal(0),
    "inv_items": 0,
    "unpriced_lines": 0,
    "lines": [],
}


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    yield con
    con.close()


DECODER = BlockDecoder(DOCUMENT_BLOCKS, generation=GENERATION)
Records = tuple[list[bytes], list[bytes]]


def _sent(
    con: duckdb.DuckDBPyConnection, relation: str, *, generation: str = GENERATION, partitions: int = 1
) -> Records:
    parts = placed_rows(con, DOCUMENT_BLOCKS, relation, partitions=partitions)
    slices = [s for rows in parts for s in encode_blocks(DOCUMENT_BLOCKS, rows, generation=generation)]
    return [key for keys, _ in slices for key in keys], [value for _, values in slices for value in values]


def _encode(
    con: duckdb.DuckDBPyConnection,
    documents: list[dict[str, Any]],
    *,
    generation: str = GENERATION,
    partitions: int = 1,
) -> Records:
    con.register("documents_to_write", pa.Table.from_pylist(documents, schema=CONTENT))
    try:
        return _sent(con, "documents_to_write", generation=generation, partitions=partitions)
    finally:
        con.unregister("documents_to_write")


def _content(rows: pa.Table) -> list[dict[str, Any]]:
    return [{name: row[name] for name in CONTENT.names} for row in rows.to_pylist()]


def test_documents_lie_in_the_partition_of_their_account(con: duckdb.DuckDBPyConnection) -> None:
    accounts = range(-3, 40)
    keys, values = _encode(con, [DOCUMENT | {"account_id": a} for a in accounts], partitions=8)
    placed: dict[int, int] = {}
    for key, value in zip(keys, values, strict=True):
        found, _, _ = DECODER.decode([batch([value])])
        placed |= dict.fromkeys(found["account_id"].to_pylist(), murmur2(key) % 8)
        assert key == b'{"account_id":%d}' % found["account_id"][0].as_py()
    assert placed == {a: murmur2(b'{"account_id":%d}' % a) % 8 for a in accounts}
    assert len(keys) == len(set(placed.values()))


def _document() -> st.SearchStrategy[dict[str, Any]]:
    ids = st.integers(-(2**63), 2**63 - 1)
    price = st.none() | st.integers(-(10**20) + 1, 10**20 - 1).map(lambda n: Decimal(n).scaleb(-10))
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
    line = st.fixed_dictionaries({"item_id": texts, "quantity": st.integers(-(2**31), 2**31), "price": price})
    days = st.dates(min_value=date(1, 1, 1))
    whole = st.fixed_dictionaries(
        {
            "account_id": ids,
            "invoice_id": ids,
            "document_state": st.sampled_from(["live", "left", "deleted"]),
            "document_version": ids,
            "account_since": ids,
            "invoice_bucket": st.integers(0, 2**31 - 1),
            "date_issued": days,
            "payment_dates": st.none() | days,
            "inv_total": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}E-10")),
            "lines": st.lists(line, max_size=4),
            "source_ts": st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        }
    )
    return whole.map(
        lambda d: (
            d
            | {"inv_items": sum(x["quantity"] for x in d["lines"])}
            | {"unpriced_lines": sum(x["price"] is None for x in d["lines"])}
        )
    )


@settings(max_examples=60)
@given(documents=st.lists(_document(), max_size=5))
def test_documents_come_back_as_they_were_written(
    con: duckdb.DuckDBPyConnection, documents: list[dict[str, Any]]
) -> None:
    keys, values = _encode(con, documents)
    found, ignored, dead = DECODER.decode([batch(values, keys=keys, partition=6)])
    assert found.schema == DOCUMENT_SCHEMA
    assert (ignored, dead.num_rows) == ({}, 0)
    assert _content(found) == documents
    assert {(row["bucket"], row["row_offset"]) for row in found.to_pylist()} == ({(6, 100)} if documents else set())


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in DOCUMENT if name not in ("payment_dates", "date_issued", "source_ts")),
        *({"document_state": "odd"}, {"inv_items": 4}, {"unpriced_lines": 0}, {"lines": []}),
        *({"lines": [line, DOCUMENT["lines"][1]]} for line in (None, {"item_id": None, "quantity": 2, "price": 1})),
        {"lines": [{"item_id": "a", "quantity": None, "price": 1}, DOCUMENT["lines"][1]]},
        {"lines": [DOCUMENT["lines"][0] | {"price": None}, DOCUMENT["lines"][1]]},
    ],
)
def test_block_with_a_document_that_we_would_not_write_is_dead(
    con: duckdb.DuckDBPyConnection, changes: dict[str, Any]
) -> None:
    _, (good,) = _encode(con, [DOCUMENT, BARE])
    _, (bad,) = _encode(con, [BARE, DOCUMENT | changes])
    found, ignored, dead = DECODER.decode([batch([good, bad, good], partition=1)])
    assert [(row["bucket"], row["row_offset"]) for row in found.to_pylist()] == [(1, 100)] * 2 + [(1, 102)] * 2
    (row,) = dead.to_pylist()
    assert (row["reason"], row["row_offset"], row["record_value"]) == ("bad_document", 101, bad)
    assert ignored == {}
    assert _content(found) == [DOCUMENT, BARE] * 2


def _stream(rows: pa.Table, *batches: int, generation: str | None = GENERATION) -> bytes:
    """A stream with these rows in batches of these sizes."""
    schema = rows.schema if generation is None else rows.schema.with_metadata({"generation": generation})
    sink = pa.BufferOutputStream()
    start = 0
    with pa.ipc.new_stream(sink, schema) as stream:
        for size in batches:
            stream.write_table(rows.slice(start, size))
            start += size
    return bytes(sink.getvalue())


def test_block_of_another_generation_is_ignored_and_junk_is_dead(con: duckdb.DuckDBPyConnection) -> None:
    _, (value,) = _encode(con, [DOCUMENT])
    _, (older,) = _encode(con, [DOCUMENT], generation="older")
    rows = pa.Table.from_pylist([DOCUMENT, BARE], schema=CONTENT)
    other_type = rows.set_column(1, "invoice_id", rows["invoice_id"].cast(pa.int32()))
    junk = [b"", b"x", b"{}", b"\xff", value[:-9], value + b"x", value + value]
    junk += [_stream(rows, 1, 1), _stream(rows), _stream(rows.drop_columns("lines"), 2), _stream(other_type, 2)]
    junk.append(_stream(rows, 2, generation=None))
    other_columns = _stream(rows.drop_columns("lines"), 2, generation="newer")
    found, ignored, dead = DECODER.decode([batch([older, None, other_columns, *junk, value])])
    assert ignored == {"other_generation": 2, "tombstone": 1}
    assert [row["record_value"] for row in dead.to_pylist()] == junk
    assert _content(found) == [DOCUMENT]


def test_block_with_a_text_that_is_no_utf8_is_dead(con: duckdb.DuckDBPyConnection) -> None:
    lines = [{"item_id": "spoilt", "quantity": 3, "price": None}]
    _, (value,) = _encode(con, [DOCUMENT | {"lines": lines}])
    assert value.count(b"spoilt") == 1
    found, _, dead = DECODER.decode([batch([value, value.replace(b"spoilt", b"spoi\xfft")])])
    assert (found.num_rows, dead["row_offset"].to_pylist()) == (1, [101])


@settings(max_examples=200)
@given(data=st.data())
def test_spoilt_block_is_read_whole_or_dead_or_of_another_generation(
    con: duckdb.DuckDBPyConnection, data: st.DataObject
) -> None:
    _, (value,) = _encode(con, [DOCUMENT, BARE])
    spoilt = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    found, ignored, dead = DECODER.decode([batch([value, bytes(spoilt), value])])
    assert ignored.total() + dead.num_rows <= 1
    assert found.num_rows == 4 + 2 * (1 - ignored.total() - dead.num_rows)
    assert _content(found.slice(0, 2)) == _content(found.slice(found.num_rows - 2)) == [DOCUMENT, BARE]


def test_large_batches_keep_lines_with_their_documents(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""
        CREATE OR REPLACE TEMP TABLE many AS
        SELECT
          i % 200 AS account_id, i AS invoice_id, 'live' AS document_state, 1::BIGINT AS document_version,
          1::BIGINT AS account_since, (i % 8)::INTEGER AS invoice_bucket,
          DATE '2020-01-01' + (i % 900)::INTEGER AS date_issued,
          NULL::DATE AS payment_dates, i::DECIMAL(38,10) AS inv_total, i % 6 AS inv_items, 0::INTEGER AS unpriced_lines,
          [{'item_id': i || '-' || x, 'quantity': 1::BIGINT, 'price': (x / 4)::DECIMAL(20,10)} FOR x IN range(i % 6)]
            AS lines,
          TIMESTAMPTZ '2026-01-01 00:00:00+00' AS source_ts
        FROM range(60_000) AS t(i)
    """)
    assert PART_ROWS < 60_000
    keys, values = _sent(con, "many", partitions=8)
    assert max(map(len, values)) < 1.1 * BLOCK_BYTES
    lost = {d["invoice_id"] for d in DECODER.decode([batch([values[7]])])[0].to_pylist()}
    values[7] = b"bad"
    found, _, dead = DECODER.decode([batch(values[:30], keys=keys[:30]), batch(values[30:], keys=keys[30:])])
    con.register("found", found)
    names = ", ".join(CONTENT.names)
    missing = con.sql(f"SELECT invoice_id FROM (SELECT {names} FROM many EXCEPT SELECT {names} FROM found)")
    assert {number for (number,) in missing.fetchall()} == lost
    con.unregister("found")
    assert (found.num_rows, dead["record_value"].to_pylist()) == (60_000 - len(lost), [b"bad"])


def test_document_larger_than_a_block_is_a_block(con: duckdb.DuckDBPyConnection) -> None:
    lines = [{"item_id": "x" * 64, "quantity": 1, "price": Decimal(number)} for number in range(5_000)]
    large = DOCUMENT | {"lines": lines, "inv_items": 5_000, "unpriced_lines": 0}
    _, values = _encode(con, [DOCUMENT, large, BARE])
    found, _, _ = DECODER.decode([batch(values)])
    assert len(values) == 3
    assert _content(found) == [DOCUMENT, large, BARE]


def test_nothing_is_nothing(con: duckdb.DuckDBPyConnection) -> None:
    assert _encode(con, []) == ([], [])
    found, ignored, dead = DECODER.decode([])
    assert (found, ignored, dead) == (DOCUMENT_SCHEMA.empty_table(), {}, DEAD_SCHEMA.empty_table())


def test_times_and_dates_may_be_absent(con: duckdb.DuckDBPyConnection) -> None:
    document = BARE | {"date_issued": None, "source_ts": None, "payment_dates": date(2018, 7, 16) + timedelta(days=1)}
    _, values = _encode(con, [document])
    found, _, _ = DECODER.decode([batch(values)])
    assert _content(found) == [document]
