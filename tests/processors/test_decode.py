"""What the decoder makes of every kind of record, alone and in a crowd."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from processors.decode import SLICE_RECORDS, Decoder
from processors.order import BATCH_SOURCE_NAME, RowOrder
from processors.records import DEAD_SCHEMA, event_schema
from processors.tables import TABLES, Table
from tests.processors.decode_records import (
    GOOD_ROWS,
    LINES,
    SKUS,
    SOURCE_NAMES,
    Captured,
    assert_accounted,
    batch,
    captured,
    decode_both_ways,
    encode,
    envelope,
    line,
    source,
)

UPSERTS = {"c", "u", "r", "c-after-alter", "u-after-alter", "pk-change-c"}


def _cases() -> list[Any]:
    return [
        pytest.param(record, id=f"{server}-{number}-{record.label}")
        for server in ("mysql", "mariadb")
        for number, record in enumerate(captured(server))
    ]


@pytest.mark.parametrize("record", _cases())
def test_captured_record_of_each_label_gives_its_documented_result(decoder: Decoder, record: Captured) -> None:
    decoded = decode_both_ways(decoder, record.table, record.value, record.key)
    rows = decoded.events.to_pylist()
    assert decoded.dead.num_rows == 0
    kind = record.label.split(":")[0]
    if kind == "schema-change":
        assert decoded.ignored == {"schema_change": 1}
    elif kind.startswith("tombstone"):
        assert decoded.ignored == {"tombstone": 1}
    elif kind == "t":
        (truncate,) = decoded.truncates
        assert (truncate.table, truncate.partition, truncate.offset) == ("invoice_line_items", 3, 100)
        place = json.loads(record.value or b"")["source"]
        epoch = SOURCE_NAMES.index(place["name"]) + 1
        assert truncate.source_ts_ms == place["ts_ms"]
        assert truncate.row_order == RowOrder(epoch, int(place["file"][-6:]), place["pos"], place["row"]).packed()
    elif kind in ("d", "pk-change-d"):
        assert [(row["is_delete"], row["is_create"]) for row in rows] == [(True, False)]
        _assert_row_equals(record.table, rows[0], json.loads(record.value or b"")["before"])
    elif kind == "u-pk-changed-outside-key":
        value = json.loads(record.value or b"")
        gone, new = sorted(rows, key=lambda row: not row["is_delete"])
        assert (gone["is_delete"], gone["is_create"], new["is_delete"], new["is_create"]) == (True, False, False, True)
        assert (gone["invoice_id"], gone["item_id"]) == (9001, str(value["before"]["item_id"]))
        assert (gone["row_order"], gone["row_offset"]) == (new["row_order"], new["row_offset"])
        _assert_row_equals(record.table, new, value["after"])
    else:
        assert kind in UPSERTS
        assert [(row["is_delete"], row["is_create"]) for row in rows] == [(False, not kind.startswith("u"))]
        _assert_row_equals(record.table, rows[0], json.loads(record.value or b"")["after"])


def _assert_row_equals(table: Table, row: dict[str, Any], image: dict[str, Any]) -> None:
    for column in table.columns:
        given = image.get(column.name, image.get("payment_date") if column.name == "payment_dates" else None)
        expected: object = given
        if given is not None and column.duckdb_type == "DATE":
            expected = date.fromordinal(date(1970, 1, 1).toordinal() + given)
        elif given is not None and column.duckdb_type == "VARCHAR":
            expected = str(given)
        elif given is not None and column.duckdb_type.startswith("DECIMAL"):
            expected = Decimal(given)
        assert row[column.name] == expected, column.name


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_decoded_tables_have_exactly_the_declared_schemas(decoder: Decoder, table: Table) -> None:
    for size in (0, 1, 200):
        decoded = decoder.decode(table, [batch([encode(envelope(table))] * size + [b"bad"] * size)])
        assert decoded.events.schema == event_schema(table)
        assert decoded.dead.schema == DEAD_SCHEMA
        assert (decoded.events.num_rows, decoded.dead.num_rows, decoded.read) == (size, size, 2 * size)


def test_bookkeeping_columns_hold_place_order_and_time(decoder: Decoder) -> None:
    (row,) = decode_both_ways(decoder, LINES, encode(envelope(LINES))).events.to_pylist()
    assert (row["bucket"], row["row_offset"]) == (3, 100)
    assert row["row_order"] == RowOrder(2, 2, 143900, 1).packed()
    assert row["source_ts"] == datetime(2026, 11, 23, 13, 16, 0, 123000, UTC)


def test_records_of_many_batches_keep_their_partitions_and_offsets(decoder: Decoder) -> None:
    value = encode(envelope(LINES))
    batches = [batch([value] * 60, partition=0), batch([], partition=1), batch([value] * 7 + [b"x"], partition=2)]
    decoded = decoder.decode(LINES, batches)
    places = [(row["bucket"], row["row_offset"]) for row in decoded.events.to_pylist()]
    assert places == [(0, 100 + i) for i in range(60)] + [(2, 100 + i) for i in range(7)]
    assert [(row["partition"], row["row_offset"]) for row in decoded.dead.to_pylist()] == [(2, 107)]


BAD_RECORDS: dict[str, tuple[bytes, str]] = {
    "no json": (b"hello", "not_json"),
    "empty": (b"", "not_json"),
    "truncated": (encode(envelope(LINES))[:-20], "not_json"),
    "two values": (encode(envelope(LINES)) * 2, "not_json"),
    "array": (b"[1,2]", "not_json"),
    "json null": (b"null", "not_json"),
    "text": (b'"x"', "not_json"),
    "deep": (b"[" * 100_000, "not_json"),
    "not utf-8": (encode(envelope(LINES)).replace(b"0-493", b"\xff\xfe"), "not_utf8"),
    "payload no object": (b'{"schema":null,"payload":7}', "not_json"),
    "unknown op": (encode(envelope(LINES, op="c") | {"op": "x"}), "unknown_op"),
    "op no text": (encode(envelope(LINES) | {"op": ["c"]}), "unknown_op"),
    "no op": (encode({"after": {}, "source": {}}), "unknown_op"),
    "other table": (encode(envelope(LINES, source=source(SKUS))), "unknown_table"),
    "no table": (encode(envelope(LINES, source=source(LINES, table=None))), "unknown_table"),
    "other source": (encode(envelope(LINES, source=source(LINES, name="new-server"))), "unknown_source"),
    "no source name": (encode(envelope(LINES, source=source(LINES, name=None))), "unknown_source"),
    "no source": (encode(envelope(LINES, source=None)), "bad_position"),
    "source no object": (encode(envelope(LINES, source=[1])), "bad_position"),
    **{
        f"position {changes}": (encode(envelope(LINES, source=source(LINES, **changes))), "bad_position")
        for changes in (
            *(
                {"file": file}
                for file in (None, "", "mysql-bin", "mysql-bin.", "mysql-bin.12345678901", 2.5, "a.٣", {})
            ),
            *({"pos": pos} for pos in (None, -1, 1.5, 10**13, 10**30, "x", True, [])),
            *({"row": row} for row in (-1, 1.5, 10**10, "x", True, {})),
        )
    },
    "no after": (encode(envelope(LINES) | {"after": None}), "missing_row"),
    "after no object": (encode(envelope(LINES) | {"after": [1]}), "missing_row"),
    "delete without before": (encode(envelope(LINES, op="d")), "missing_row"),
    "delete without key": (encode(envelope(LINES, op="d", before={"invoice_id": 9})), "missing_column"),
    "delete of a bad key": (encode(envelope(LINES, op="d", before={"invoice_id": 9.5, "item_id": "x"})), "bad_value"),
    "update of a bad key": (encode(envelope(LINES, op="u", before={"invoice_id": 9.5, "item_id": "x"})), "bad_value"),
    "truncate without position": (encode(envelope(LINES, op="t", source=source(LINES, pos=None))), "bad_position"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_record_is_dead_and_kept_whole(decoder: Decoder, name: str) -> None:
    value, reason = BAD_RECORDS[name]
    (dead,) = decode_both_ways(decoder, LINES, value, b"its key").dead.to_pylist()
    assert dead["reason"] == reason
    assert (dead["topic"], dead["partition"], dead["row_offset"]) == ("aurora.trs.any", 3, 100)
    assert (dead["record_key"], dead["record_value"]) == (b"its key", value)
    assert dead["record_ts"] == datetime(2026, 11, 23, 13, 16, 1, tzinfo=UTC)
    assert dead["detail"]


@pytest.mark.parametrize("key", [None, b""])
def test_record_without_key_is_dead_unless_it_truncates(decoder: Decoder, key: bytes | None) -> None:
    (dead,) = decode_both_ways(decoder, LINES, encode(envelope(LINES)), key).dead.to_pylist()
    assert (dead["reason"], dead["record_key"]) == ("null_key", key)
    assert len(decode_both_ways(decoder, LINES, encode(envelope(LINES, op="t")), key).truncates) == 1


def test_bad_records_among_ten_thousand_cost_only_themselves(decoder: Decoder) -> None:
    good = [encode(envelope(LINES, after=GOOD_ROWS[LINES.name] | {"quantity": i})) for i in range(10_000)]
    mixed: list[bytes | None] = []
    for number, value in enumerate(good):
        mixed.append(value)
        if number % 200 == 7:
            mixed.append(list(BAD_RECORDS.values())[number // 200 % len(BAD_RECORDS)][0])
    decoded = decoder.decode(LINES, [batch(mixed)])
    assert sorted(decoded.events["quantity"].to_pylist()) == list(range(10_000))
    assert decoded.dead.num_rows == 50
    assert_accounted(decoded)


@pytest.mark.parametrize("shift", range(4))
def test_malformed_json_of_wide_characters_costs_itself_alone(decoder: Decoder, shift: int) -> None:
    text = "x" * shift + "é漢😀" * 100
    for malformed in (f'{{"a":"{text}"', f'{{"{text}', f'{{"a":"{text}"}}}}', f'{{"a" "{text}"}}'):
        (dead,) = decode_both_ways(decoder, LINES, malformed.encode()).dead.to_pylist()
        assert dead["reason"] == "not_json"


def test_huge_value_is_judged_like_any_other(decoder: Decoder) -> None:
    huge = encode(envelope(LINES) | {"ignored": "x" * 21_000_000})
    assert decode_both_ways(decoder, LINES, huge).events.num_rows == 1
    (dead,) = decode_both_ways(decoder, LINES, line(item_id="x" * 21_000_000)).dead.to_pylist()
    assert (dead["reason"], len(dead["record_value"]) > 21_000_000) == ("bad_value", True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        ({"source": {}, "databaseName": "trs", "ddl": "ALTER TABLE skus", "tableChanges": []}, "schema_change"),
        ({"ts_ms": 1795439760123}, "heartbeat"),
        ({"status": "BEGIN", "id": "file=x,pos=1", "event_count": None, "ts_ms": 1}, "transaction_metadata"),
        ({"schema": {"type": "struct"}, "payload": {"ts_ms": 1795439760123}}, "heartbeat"),
    ],
)
@pytest.mark.parametrize("key", [None, b"k"])
def test_record_that_is_no_row_event_is_ignored_by_its_reason(
    decoder: Decoder, value: Any, reason: str, key: bytes | None
) -> None:
    decoded = decode_both_ways(decoder, LINES, None if value is None else encode(value), key)
    assert decoded.ignored == {reason: 1}


def test_envelope_with_schema_or_white_space_equals_the_bare_one(decoder: Decoder) -> None:
    bare = decode_both_ways(decoder, LINES, encode(envelope(LINES))).events
    wrapped = encode({"schema": {"type": "struct", "fields": []}, "payload": envelope(LINES)})
    assert decode_both_ways(decoder, LINES, wrapped).events == bare
    many = decoder.decode(LINES, [batch([wrapped] * 100 + [b"bad", encode(envelope(LINES)), encode({"payload": 7})])])
    assert (many.events.num_rows, many.dead.num_rows) == (101, 2)
    assert many.events.drop_columns("row_offset").slice(5, 1) == bare.drop_columns("row_offset")
    pretty = json.dumps(envelope(LINES), indent=2).replace("\n", "\r\n").encode()
    assert decode_both_ways(decoder, LINES, pretty).events == bare
    repeated = encode(envelope(LINES))[:-1] + b',"op":"d"}'
    assert decode_both_ways(decoder, LINES, repeated).events == bare
    relaxed = encode(envelope(LINES))[:-1] + b',"x":[1,],}'
    assert decode_both_ways(decoder, LINES, relaxed).events == bare


def test_source_epoch_is_the_place_of_the_source_name(decoder: Decoder) -> None:
    for name, epoch in (("ma", 1), ("my", 2), (BATCH_SOURCE_NAME, 0)):
        value = encode(envelope(LINES, source=source(LINES, name=name, file="7", row=None)))
        (row,) = decode_both_ways(decoder, LINES, value).events.to_pylist()
        assert row["row_order"] == RowOrder(epoch, 7, 143900, 0).packed()


@pytest.mark.parametrize(
    ("in_source", "outside", "expected_ms"),
    [
        (5000, 6000, 5000),
        (None, 6000, 6000),
        (0, 6000, 6000),
        ("x", None, 1795439761000),
        (10**18, 10**18, 1795439761000),
    ],
)
def test_time_falls_back_from_source_to_envelope_to_kafka(
    decoder: Decoder, in_source: object, outside: object, expected_ms: int
) -> None:
    value = encode(envelope(LINES, source=source(LINES, ts_ms=in_source)) | {"ts_ms": outside})
    (row,) = decode_both_ways(decoder, LINES, value).events.to_pylist()
    assert row["source_ts"] == datetime.fromtimestamp(expected_ms / 1000, UTC)


def test_delete_keeps_what_the_before_image_holds_and_is_valid(decoder: Decoder) -> None:
    before = {"invoice_id": "9", "item_id": 7, "quantity": "many"}
    (row,) = decode_both_ways(decoder, LINES, encode(envelope(LINES, op="d", before=before))).events.to_pylist()
    assert (row["invoice_id"], row["item_id"], row["quantity"], row["is_delete"]) == (9, "7", None, True)
    del before["quantity"]
    (row,) = decode_both_ways(decoder, LINES, encode(envelope(LINES, op="d", before=before))).events.to_pylist()
    assert (row["invoice_id"], row["item_id"], row["quantity"], row["is_delete"]) == (9, "7", None, True)


@pytest.mark.parametrize("before", [None, {}, {"invoice_id": 1}, [1], {"invoice_id": 9.0, "item_id": "0-493-95641-7"}])
def test_update_without_a_changed_key_is_one_upsert(decoder: Decoder, before: object) -> None:
    (row,) = decode_both_ways(decoder, LINES, encode(envelope(LINES, op="u", before=before))).events.to_pylist()
    assert (row["is_delete"], row["is_create"]) == (False, False)


def test_update_of_the_key_in_many_records_gives_two_rows_each(decoder: Decoder) -> None:
    values = [
        encode(envelope(LINES, op="u", before={"invoice_id": 9, "item_id": str(i), "quantity": 1})) for i in range(500)
    ]
    decoded = decoder.decode(LINES, [batch(values)])
    deleted = [row for row in decoded.events.to_pylist() if row["is_delete"]]
    created = [row for row in decoded.events.to_pylist() if row["is_create"]]
    assert [row["item_id"] for row in deleted] == [str(i) for i in range(500)]
    assert {(row["invoice_id"], row["quantity"], row["is_create"]) for row in deleted} == {(9, None, False)}
    assert {row["item_id"] for row in created} == {"0-493-95641-7"}
    assert [row["row_offset"] for row in created] == [row["row_offset"] for row in deleted] == [*range(100, 600)]
    assert_accounted(decoded)


def test_slices_on_several_threads_equal_one_thread() -> None:
    values = [line(quantity=i) for i in range(SLICE_RECORDS * 2 + 10)] + [b"bad"]
    one, two = Decoder(source_names=SOURCE_NAMES), Decoder(source_names=SOURCE_NAMES, threads=2)
    try:
        alone, together = (d.decode(LINES, [batch(values)]) for d in (one, two))
        assert alone.events == together.events
        assert alone.dead == together.dead
    finally:
        one.close()
        two.close()
