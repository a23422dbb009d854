"""Documents come back as they were written; anything else is refused or ignored."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.derived_codec import SLICE_RECORDS
from processors.document_codec import DOCUMENT_SCHEMA, DocumentDecoder, encode_documents
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


@pytest.fixture(scope="module")
def decoder() -> Iterator[DocumentDecoder]:
    decoder = DocumentDecoder(generation=GENERATION)
    yield decoder
    decoder.close()


def joined(slices: Iterable[tuple[list[bytes], list[bytes]]]) -> tuple[list[bytes], list[bytes]]:
    keys: list[bytes] = []
    values: list[bytes] = []
    for some_keys, some_values in slices:
        assert len(some_values) <= SLICE_RECORDS
        keys += some_keys
        values += some_values
    return keys, values


def _encode(con: duckdb.DuckDBPyConnection, documents: list[dict[str, Any]]) -> tuple[list[bytes], list[bytes]]:
    con.register("documents_to_write", pa.Table.from_pylist(documents, schema=CONTENT))
    try:
        return joined(encode_documents(con, "documents_to_write", generation=GENERATION))
    finally:
        con.unregister("documents_to_write")


def test_documents_are_keyed_by_account_as_json(con: duckdb.DuckDBPyConnection) -> None:
    keys, values = _encode(con, [DOCUMENT, BARE | {"account_id": 12}])
    assert keys == [b'{"account_id":7}', b'{"account_id":12}']
    value = json.loads(values[0])
    assert (value["generation"], value["invoice_id"], value["payment_dates"]) == (GENERATION, 9, None)
    assert (value["items"], value["quantities"]) == (['a"b\\é\n', ""], [2, 1])
    assert value["prices"] == ["6.1700000000", None]


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
    con: duckdb.DuckDBPyConnection, decoder: DocumentDecoder, documents: list[dict[str, Any]]
) -> None:
    keys, values = _encode(con, documents)
    found, ignored, dead = decoder.decode([batch(values, keys=keys, partition=6)])
    assert found.schema == DOCUMENT_SCHEMA
    assert (ignored, dead.num_rows) == ({}, 0)
    assert [{name: row[name] for name in CONTENT.names} for row in found.to_pylist()] == documents
    assert [(row["bucket"], row["row_offset"]) for row in found.to_pylist()] == [(6, 100 + i) for i in range(len(keys))]


def _changed(value: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(value) | changes, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in DOCUMENT if name not in ("payment_dates", "lines", "date_issued", "source_ts")),
        *({name: None} for name in ("items", "quantities", "prices")),
        *(
            {"account_id": 7.5},
            {"invoice_id": "9"},
            {"document_state": "odd"},
            {"inv_total": "12.34"},
            {"inv_total": 12.34},
        ),
        *({"date_issued": "2018-02-30"}, {"inv_items": 4}, {"unpriced_lines": 0}, {"invoice_bucket": 2**31}),
        *({"items": ["a"]}, {"items": ["a", None]}, {"quantities": [2.5, 1]}, {"quantities": [3, None]}),
        *({"prices": [p, None]} for p in ("x", "1.5", "6.17000000001", "1e5", "12345678901.0000000000", [])),
        *({"prices": ["6.1700000000"]}, {"source_ts": 1.5}, {"source_ts": 10**30}),
    ],
)
def test_document_that_we_would_not_write_is_dead(
    con: duckdb.DuckDBPyConnection, decoder: DocumentDecoder, changes: dict[str, Any]
) -> None:
    (_, _), (value, other) = _encode(con, [DOCUMENT, BARE])
    bad = _changed(value, **changes)
    found, ignored, dead = decoder.decode([batch([other, bad, value], partition=1)])
    assert [row["row_offset"] for row in found.to_pylist()] == [100, 102]
    (row,) = dead.to_pylist()
    assert (row["reason"], row["row_offset"], row["record_value"]) == ("bad_document", 101, bad)
    assert ignored == {}
    assert found.to_pylist()[1]["lines"] == DOCUMENT["lines"]


def test_document_of_another_generation_is_ignored_and_junk_is_dead(
    con: duckdb.DuckDBPyConnection, decoder: DocumentDecoder
) -> None:
    _, (value,) = _encode(con, [DOCUMENT])
    junk = [b"", b"x", b"{}", b"\xff", b"[]", value[:-3], _changed(value, generation=None)]
    found, ignored, dead = decoder.decode([batch([_changed(value, generation="older"), None, *junk, value])])
    assert ignored == {"other_generation": 1, "tombstone": 1}
    assert [row["record_value"] for row in dead.to_pylist()] == junk
    assert found.num_rows == 1


def test_large_batches_keep_lines_with_their_documents(
    con: duckdb.DuckDBPyConnection, decoder: DocumentDecoder
) -> None:
    con.execute("""
        CREATE OR REPLACE TEMP TABLE many AS
        SELECT
          i % 200 AS account_id, i AS invoice_id, 'live' AS document_state, 1::BIGINT AS document_version,
          1::BIGINT AS account_since, (i % 8)::INTEGER AS invoice_bucket,
          DATE '2020-01-01' + (i % 900)::INTEGER AS date_issued,
          NULL::DATE AS payment_dates, i::DECIMAL(38,10) AS inv_total, i % 6 AS inv_items, 0 AS unpriced_lines,
          [{'item_id': i || '-' || x, 'quantity': 1::BIGINT, 'price': (x / 4)::DECIMAL(20,10)} FOR x IN range(i % 6)]
            AS lines,
          TIMESTAMPTZ '2026-01-01 00:00:00+00' AS source_ts
        FROM range(40_000) AS t(i)
    """)
    keys, values = joined(encode_documents(con, "many", generation=GENERATION))
    values[777] = b"bad"
    found, _, dead = decoder.decode(
        [batch(values[:30_000], keys=keys[:30_000]), batch(values[30_000:], keys=keys[30_000:])]
    )
    con.register("found", found)
    names = ", ".join(CONTENT.names)
    missing = con.sql(f"SELECT invoice_id FROM (SELECT {names} FROM many EXCEPT SELECT {names} FROM found)")
    assert missing.fetchall() == [(777,)]
    con.unregister("found")
    assert (found.num_rows, dead.num_rows) == (39_999, 1)


def test_times_and_dates_may_be_absent(con: duckdb.DuckDBPyConnection, decoder: DocumentDecoder) -> None:
    document = BARE | {"date_issued": None, "source_ts": None, "payment_dates": date(2018, 7, 16) + timedelta(days=1)}
    keys, values = _encode(con, [document])
    found, _, _ = decoder.decode([batch(values, keys=keys)])
    assert [{name: row[name] for name in CONTENT.names} for row in found.to_pylist()] == [document]
