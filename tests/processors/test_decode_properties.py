"""Laws of the decoder: nothing crashes it, every record is told, both paths agree, good rows come back as they went."""

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.decode import Decoder
from processors.tables import TABLES, Column, Kind, Table
from tests.processors.decode_records import (
    LINES,
    assert_accounted,
    batch,
    captured,
    decode_both_ways,
    encode,
    envelope,
)

RECORDS = [
    (record.table, record.value)
    for server in ("mysql", "mariadb")
    for record in captured(server)
    if record.value is not None and not record.label.startswith("schema-change")
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
ODD_TEXTS = st.sampled_from(
    [
        *(
            "7",
            "7.0",
            "-0",
            "007",
            "1e5",
            "1E400",
            "NaN",
            "-Infinity",
            "inf",
            "true",
            "{}",
            "[",
            "9" * 40,
            "0x1F",
            "1_0",
        ),
        *("", "2018-07-16", "2018-02-30", "infinity", "1.12345678901", " 1", "+1", "\x00", "😀", '"', "\\", "٣"),
    ]
)
SCALARS = JSON | ODD_TEXTS | st.integers(-(10**20), 10**20) | st.decimals(allow_nan=False, places=11).map(str)
FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@FUZZ
@given(value=st.none() | st.binary(), key=st.none() | st.binary(max_size=8))
def test_arbitrary_bytes_are_told_and_never_crash(decoder: Decoder, value: bytes | None, key: bytes | None) -> None:
    decoded = decode_both_ways(decoder, LINES, value, key)
    assert decoded.events.num_rows == 0


@FUZZ
@given(value=JSON, is_payload=st.booleans())
def test_arbitrary_json_is_told_and_never_crashes(decoder: Decoder, value: Any, is_payload: bool) -> None:
    text = json.dumps({"schema": 1, "payload": value} if is_payload else value)
    decode_both_ways(decoder, LINES, text.encode())


@FUZZ
@given(data=st.data(), place=st.sampled_from(RECORDS))
def test_mutated_real_record_has_one_outcome_on_both_paths(
    decoder: Decoder, data: st.DataObject, place: tuple[Table, bytes]
) -> None:
    table, value = place
    mutated = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        if kind == "flip":
            mutated[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut" and at:
            del mutated[at:]
        elif kind == "insert":
            mutated[at:at] = data.draw(
                st.sampled_from([b"9" * 30, b",", b"null", b"NaN", b'"', b"[[[", b"\xff", b"1e9"])
            )
        elif len(mutated) > 1:
            del mutated[at]
    decode_both_ways(decoder, table, bytes(mutated))


@FUZZ
@given(data=st.data(), place=st.sampled_from(RECORDS))
def test_real_record_with_odd_values_has_one_outcome_on_both_paths(
    decoder: Decoder, data: st.DataObject, place: tuple[Table, bytes]
) -> None:
    table, value = place
    record = json.loads(value)
    part = data.draw(st.sampled_from(["before", "after", "source", None]))
    target = record if part is None or record[part] is None else record[part]
    for name in data.draw(st.lists(st.sampled_from(sorted(target)), min_size=1, max_size=3)):
        target[name] = data.draw(SCALARS)
    decode_both_ways(decoder, table, json.dumps(record).encode())
    decode_both_ways(decoder, table, json.dumps({"schema": {}, "payload": record}).encode())


def _members(value: Any) -> list[dict[str, Any]]:
    """Every object in a JSON value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict) else []) + [found for each in inner for found in _members(each)]


@FUZZ
@given(data=st.data(), place=st.sampled_from(RECORDS))
def test_real_record_with_a_repeated_member_is_read_by_the_first_on_both_paths(
    decoder: Decoder, data: st.DataObject, place: tuple[Table, bytes]
) -> None:
    table, value = place
    plain = decode_both_ways(decoder, table, value)
    repeated = json.loads(value)
    holder = data.draw(st.sampled_from([each for each in _members(repeated) if each]))
    name = data.draw(st.sampled_from(sorted(holder)))
    other = data.draw(SCALARS | st.just({}) | st.just([]))
    # Names that JSON cannot tell apart: the placeholder becomes the same name once it is text.
    holder["REPEATED"] = other
    text = json.dumps(repeated).replace('"REPEATED":', f"{json.dumps(name)}:").encode()
    decoded = decode_both_ways(decoder, table, text)
    assert (decoded.events, decoded.dead.num_rows) == (plain.events, plain.dead.num_rows)
    assert (decoded.truncates, decoded.ignored) == (plain.truncates, plain.ignored)


@FUZZ
@given(data=st.data(), place=st.sampled_from(RECORDS))
def test_real_record_with_values_in_each_others_place_has_one_outcome_on_both_paths(
    decoder: Decoder, data: st.DataObject, place: tuple[Table, bytes]
) -> None:
    table, value = place
    record = json.loads(value)
    places = [(each, name) for each in _members(record) for name in sorted(each)]
    for _ in range(data.draw(st.integers(1, 3))):
        (one, a), (two, b) = data.draw(st.sampled_from(places)), data.draw(st.sampled_from(places))
        one[a], two[b] = json.loads(json.dumps(two[b])), json.loads(json.dumps(one[a]))
    decode_both_ways(decoder, table, json.dumps(record).encode())


def _values(column: Column) -> st.SearchStrategy[Any]:
    if column.kind is Kind.DATE:
        values: st.SearchStrategy[Any] = st.dates()
    elif column.kind is Kind.DECIMAL:
        values = st.integers(-(10**20) + 1, 10**20 - 1).map(lambda n: Decimal(n).scaleb(-10))
    elif column.kind is Kind.TEXT:
        size = min(column.size or 100, 100)
        texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=size)
        values = texts | ODD_TEXTS.filter(lambda text: len(text) <= size)
    else:
        bound = 2 ** (63 if column.kind is Kind.BIGINT else 31)
        values = st.integers(-bound, bound - 1)
    return st.none() | values if column.nullable else values


def _written(value: object) -> object:
    if isinstance(value, date):
        return (value - date(1970, 1, 1)) // timedelta(days=1)
    return f"{value:f}" if isinstance(value, Decimal) else value


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=40)
@given(data=st.data())
def test_random_valid_rows_come_back_as_they_went(decoder: Decoder, table: Table, data: st.DataObject) -> None:
    row = st.fixed_dictionaries({column.name: _values(column) for column in table.columns})
    rows = data.draw(st.lists(row, min_size=1, max_size=4)) * data.draw(st.sampled_from([1, 50]))
    values = [encode(envelope(table, after={name: _written(value) for name, value in row.items()})) for row in rows]
    decoded = decoder.decode(table, [batch(values)])
    assert_accounted(decoded)
    got = sorted(decoded.events.to_pylist(), key=lambda event: event["row_offset"])
    assert [{name: event[name] for name in table.column_names} for event in got] == rows
