"""Columns that are not declared: kept as one JSON object, in whichever way a record is decoded."""

import json
from dataclasses import replace
from itertools import islice, permutations
from typing import Any

import pytest

from processors.decode import FEW_RECORDS, MOST_LAYOUTS, Decoder
from processors.decode_extra import layout_of
from tests.processors.decode_records import (
    ACCOUNTS,
    GOOD_ROWS,
    INVOICES,
    LINES,
    SKUS,
    SOURCE_NAMES,
    batch,
    decode_both_ways,
    encode,
    envelope,
)

LINE = GOOD_ROWS["invoice_line_items"]
CROWD = FEW_RECORDS + 10


def _extra(decoder: Decoder, value: bytes, table: Any = LINES) -> str | None:
    (row,) = decode_both_ways(decoder, table, value).events.to_pylist()
    found: str | None = row["extra"]
    return found


@pytest.mark.parametrize(
    ("added", "kept"),
    [
        ({}, None),
        ({"weight": None}, None),
        ({"weight": "1.250", "flag": 1}, '{"weight":"1.250","flag":1}'),
        ({"b": 2, "a": None, "A": 1}, '{"b":2,"A":1}'),
        ({"j": '{"k": null}', "ü 'q\"": "\U0001f600\n\0"}, '{"j":"{\\"k\\": null}","ü \'q\\"":"\U0001f600\\n\\u0000"}'),
        ({"big": 2**64, "small": 1e-10, "no": False, "point": {"wkb": "AA==", "srid": None}}, None),
    ],
)
@pytest.mark.parametrize("op", ["c", "r", "u"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_undeclared_columns_of_a_row_are_kept_without_nulls(
    decoder: Decoder, op: str, wrapped: bool, added: dict[str, Any], kept: str | None
) -> None:
    if "big" in added:
        kept = '{"big":18446744073709551616,"small":1e-10,"no":false,"point":{"wkb":"AA=="}}'
    value: Any = envelope(LINES, op=op, before=LINE if op == "u" else None, after=LINE | added)
    value = {"schema": {"type": "struct"}, "payload": value} if wrapped else value
    assert _extra(decoder, encode(value)) == kept


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("null", "2"), ("1", "null")])
def test_repeated_column_counts_by_its_first(decoder: Decoder, first: str, second: str) -> None:
    text = encode(envelope(LINES)).decode().replace('"quantity":3', f'"x":{first},"quantity":3,"x":{second}')
    assert _extra(decoder, text.encode()) == (None if first == "null" else '{"x":1}')


def test_place_of_an_added_column_among_the_others_does_not_matter(decoder: Decoder) -> None:
    for names in (["x", "invoice_id", "item_id", "quantity"], ["invoice_id", "x", "item_id", "quantity"]):
        after = {name: (LINE | {"x": 1})[name] for name in names}
        assert _extra(decoder, encode(envelope(LINES, after=after))) == '{"x":1}'


def test_delete_has_none_and_of_an_update_of_the_key_only_the_new_row_has(decoder: Decoder) -> None:
    assert _extra(decoder, encode(envelope(LINES, op="d", before=LINE | {"x": 1}))) is None
    value = envelope(LINES, op="u", before=LINE | {"x": 1}, after=LINE | {"item_id": "other", "x": 2})
    events = decode_both_ways(decoder, LINES, encode(value)).events.to_pylist()
    assert {(e["item_id"], e["extra"]) for e in events} == {(LINE["item_id"], None), ("other", '{"x":2}')}


def test_columns_under_an_alias_or_absent_are_not_undeclared(decoder: Decoder) -> None:
    row = {name: value for name, value in GOOD_ROWS["invoices"].items() if name != "payment_dates"}
    for after in (row, row | {"payment_date": 17730}, row | {"payment_date": None}):
        assert _extra(decoder, encode(envelope(INVOICES, after=after)), INVOICES) is None
        assert _extra(decoder, encode(envelope(INVOICES, after=after | {"x": "y"})), INVOICES) == '{"x":"y"}'


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (lambda text: text.replace('"quantity":3', '"quantity":3,"x":1,'), '{"x":1}'),
        (lambda text: text.replace('"quantity":3', '"quantity":3,"x":"\\ud800"'), '{"x":"\\ud800"}'),
        (lambda text: text.replace('"quantity":3', '"quantity":3.0,"x":[1,{"y":null}]'), '{"x":[1,{"y":null}]}'),
    ],
    ids=["trailing comma", "half a surrogate pair", "a value that is cast"],
)
def test_odd_records_keep_theirs(decoder: Decoder, spoil: Any, kept: str) -> None:
    value = spoil(encode(envelope(LINES)).decode()).encode()
    assert b'"x"' in value
    assert _extra(decoder, value) == kept


def test_records_before_and_after_an_alter_in_one_batch_keep_each_their_own(decoder: Decoder) -> None:
    values = [
        encode(envelope(SKUS, after=GOOD_ROWS["skus"] | ({"x": n} if n >= 50 else {}))) for n in range(CROWD + 50)
    ]
    events = decoder.decode(SKUS, [batch(values)]).events.to_pylist()
    found = {event["row_offset"] - 100: event["extra"] for event in events}
    assert found == {n: None if n < 50 else f'{{"x":{n}}}' for n in range(CROWD + 50)}


@pytest.mark.parametrize("text", ['"', "\\", "null", "true", '{"a":1}', '","x":"y', "\n", "é\U0001f600", "7.0", ""])
def test_text_that_looks_like_more_is_a_text_and_no_column(decoder: Decoder, text: str) -> None:
    value = encode(envelope(ACCOUNTS, after=GOOD_ROWS["accounts"] | {"company_name": text, "gender": text}))
    events = decoder.decode(ACCOUNTS, [batch([value] * CROWD)]).events.to_pylist()
    assert {(e["company_name"], e["gender"], e["extra"]) for e in events} == {(text, text, None)}


@pytest.mark.parametrize("spelled", ["7.0", "true", "[1]"])
def test_scalar_that_is_no_text_is_refused_next_to_an_added_column_too(decoder: Decoder, spelled: str) -> None:
    value = encode(envelope(LINES, after=LINE | {"item_id": "ITEM", "x": "y"})).replace(b'"ITEM"', spelled.encode())
    (dead,) = decode_both_ways(decoder, LINES, value).dead.to_pylist()
    assert dead["detail"].startswith("item_id ")


def test_layout_is_that_of_the_first_record_if_it_holds_declared_columns_only() -> None:
    turned = dict(reversed(LINE.items()))
    assert layout_of(LINES, encode(envelope(LINES, after=turned))) == ("quantity", "item_id", "invoice_id")
    for other in (encode(envelope(LINES, after=turned | {"x": 1})), b"", b"no JSON", b'{"after":{x},"source":'):
        assert layout_of(LINES, other) == LINES.column_names


def test_more_layouts_than_are_kept_decode_all_the_same() -> None:
    decoder = Decoder(source_names=SOURCE_NAMES)
    row = GOOD_ROWS["accounts"]
    for names in islice(permutations(row), MOST_LAYOUTS + 3):
        value = encode(envelope(ACCOUNTS, after={name: row[name] for name in names}))
        events = decoder.decode(ACCOUNTS, [batch([value] * CROWD)]).events
        assert events.num_rows == CROWD
        assert events["extra"].null_count == CROWD
    decoder.close()


def test_extra_is_json(decoder: Decoder) -> None:
    kept = _extra(decoder, encode(envelope(LINES, after=LINE | {"a": "x", "b": 0.1})))
    assert json.loads(kept or "") == {"a": "x", "b": 0.1}


@pytest.mark.parametrize(
    ("declared", "taken"), [({}, None), ({"aliases": ("firm",)}, "Company"), ({"optional": True}, "null")]
)
def test_record_without_a_required_column_is_taken_once_its_new_name_or_its_absence_is_declared(
    declared: dict[str, Any], taken: str | None
) -> None:
    """What a replay of parked records meets."""
    row = {"firm" if name == "company_name" else name: value for name, value in GOOD_ROWS["accounts"].items()}
    columns = [replace(c, **declared) if c.name == "company_name" else c for c in ACCOUNTS.columns]
    decoder = Decoder(source_names=SOURCE_NAMES)
    decoded = decode_both_ways(
        decoder, replace(ACCOUNTS, columns=tuple(columns)), encode(envelope(ACCOUNTS, after=row))
    )
    decoder.close()
    if taken is None:
        (letter,) = decoded.dead.to_pylist()
        assert (letter["reason"], letter["detail"]) == ("missing_column", "company_name is missing")
    else:
        (event,) = decoded.events.to_pylist()
        assert event["company_name"] == (None if taken == "null" else taken)
        assert event["extra"] == ('{"firm":"Company"}' if taken == "null" else None)
