"""Templates of alike records: found, proven of each record, and without a trace in what is decoded."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import decode
from processors.decode import FEW_RECORDS, TEMPLATE_RECORDS, Decoder
from processors.decode_sql import template_sql
from processors.decode_template import Template, template_of
from processors.records import Decoded, RawBatch
from processors.tables import TABLES, Kind, Table
from tests.processors.decode_records import (
    ACCOUNTS,
    GOOD_ROWS,
    INVOICES,
    LINES,
    SKUS,
    SOURCE_NAMES,
    assert_accounted,
    batch,
    encode,
    envelope,
    source,
)

EPOCHS = {"my": 2}
PROVEN = [table for table in TABLES if all(column.kind is not Kind.DECIMAL for column in table.columns)]


def event(table: Table, number: int, **changes: Any) -> dict[str, Any]:
    """A created row, with the numbers that differ from one to the next."""
    after = GOOD_ROWS[table.name] | {table.columns[0].name: number}
    at = source(table, pos=200 + number, ts_ms=1795439760123 + number // 3, thread=7)
    return envelope(table, after=after, source=at, ts_ms=1795439760547 + number, transaction=None) | changes


def events(table: Table, count: int) -> list[bytes]:
    return [encode(event(table, number)) for number in range(count)]


def found(values: Sequence[bytes | None], table: Table = LINES) -> Template | None:
    return template_of(table, pa.array(values, pa.binary_view()), EPOCHS)


def test_template_names_the_numbers_that_differ() -> None:
    template = found(events(LINES, 50))
    assert template is not None
    assert template.layout == ("invoice_id", "item_id", "quantity")
    assert template.holes == ("source.ts_ms", "source.pos", "ts_ms")
    *pieces, epoch, file, row = template.parameters
    holes = ["1795439760139", "249", "1795439760596"]
    rest = "".join(f"{piece}{hole}" for piece, hole in zip(pieces, [*holes, ""], strict=True))
    assert events(LINES, 50)[49].decode().endswith(rest)
    assert (epoch, file, row) == (2, 2, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e | {"op": "u"},
        lambda e: e | {"op": "d"},
        lambda e: e | {"before": e["after"]},
        lambda e: e | {"source": source(INVOICES)},
        lambda e: e | {"source": source(LINES, name="another")},
        lambda e: e | {"source": source(LINES, name=["my"])},
        lambda e: e | {"source": source(LINES, file="no number")},
        lambda e: e | {"source": source(LINES, row=False)},
        lambda e: e | {"source": source(LINES, row=-1)},
        lambda e: e | {"source": source(LINES, pos=True)},
        lambda e: e | {"source": source(LINES, pos=10**13)},
        lambda e: e | {"source": source(LINES, ts_ms=0)},
        lambda e: e | {"source": source(LINES, query={"nested": 1})},
        lambda e: e | {"source": source(LINES, query='a "quote"')},
        lambda e: e | {"after": e["after"] | {"more": 1}},
        lambda e: {"source": e["source"], "before": None, "after": e["after"], "op": "c", "ts_ms": 1},
    ],
)
def test_records_of_another_form_give_none(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    assert found([encode(spoil(event(LINES, number))) for number in range(50)]) is None


@pytest.mark.parametrize("member", ['"op":"c"', '"ts_ms":1795439760547', '"name":"my"', '"pos":200'])
def test_a_name_that_comes_twice_gives_none(member: str) -> None:
    value = encode(event(LINES, 0)).decode()
    assert member in value
    assert found([value.replace(member, f"{member},{member}").encode()] * 50) is None


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    one = Decoder(source_names=SOURCE_NAMES)
    yield one
    one.close()


DEEP = b'{"before":null,"after":{"invoice_id":' + b"[" * 10**5


@pytest.mark.parametrize("odd", [None, b"", b"{}", b"bad", b'{"before":null,"after":{"invoice_id":1', b"\xff", DEEP])
def test_one_odd_sample_gives_none(odd: bytes | None) -> None:
    assert found([*events(LINES, 49), odd]) is None


def test_a_source_that_nests_deeply_gives_none() -> None:
    value = encode(event(LINES, 0)).replace(b'"thread":7', b'"thread":' + b"[" * 10**5 + b"]" * 10**5)
    assert found([value] * 50) is None


def test_numbers_under_any_name_may_differ(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "TEMPLATE_RECORDS", FEW_RECORDS)
    monkeypatch.setattr(decode, "decode_sql", None)
    values = [encode(event(LINES, n) | {"source": source(LINES, **{"1st": n, "select": n})}) for n in range(50)]
    assert decoder.decode(LINES, [batch(values)]).events.num_rows == 50


def test_tables_with_decimals_have_none() -> None:
    assert found(events(SKUS, 50), SKUS) is None


@pytest.mark.parametrize("text", ["plain", 'a "b"\\ \n\t é 😀'])
@pytest.mark.parametrize("table", PROVEN, ids=lambda table: table.name)
def test_alike_records_are_decoded_by_their_template_alone(
    decoder: Decoder, table: Table, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "decode_sql", None)  # the general statement cannot be made
    texts = {c.name: text for c in table.columns if c.kind is Kind.TEXT and c.name != "gender"}
    records = [event(table, number) for number in range(TEMPLATE_RECORDS)]
    values = [encode(record | {"after": record["after"] | texts}) for record in records]
    decoded = decoder.decode(table, [batch(values)])
    assert decoded.events.num_rows == TEMPLATE_RECORDS
    assert {(name, value) for name in texts for value in decoded.events[name].to_pylist()} == set(texts.items())
    with pytest.raises(TypeError):
        decoder.decode(table, [batch(values[1:])])


def test_template_that_proves_few_is_not_tried_again(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "TEMPLATE_RECORDS", FEW_RECORDS)
    asked: list[str] = []

    def noted(table: Table, *, layout: Sequence[str], holes: Sequence[str], escaped: bool) -> str:
        asked.append(table.name)
        return template_sql(table, layout=layout, holes=holes, escaped=escaped)

    monkeypatch.setattr(decode, "template_sql", noted)
    good, other = encode(event(LINES, 0)), encode(event(LINES, 0) | {"op": "u"})
    values = [good if place % 7 == 0 else other for place in range(50)]
    for _ in range(3):
        decoded = decoder.decode(LINES, [batch(values)])
        assert decoded.events["is_create"].to_pylist().count(True) == 8
        assert decoded.events.num_rows == 50
    assert asked == [LINES.name]


def same(one: Decoded, other: Decoded) -> bool:
    ordered = [
        sorted(d.events.to_pylist(), key=lambda row: (row["bucket"], row["row_offset"], str(row))) for d in (one, other)
    ]
    return ordered[0] == ordered[1] and (one.dead, one.truncates, one.ignored) == (
        other.dead,
        other.truncates,
        other.ignored,
    )


NUMBERS = st.integers(-1, 3) | st.integers(0, 10**13) | st.just(10**10)
ODD = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=3)
    | st.sampled_from(["null", "7", '"', "\\", "1e5", -0.0, 1.5])
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Table, list[bytes | None]]:
    """Records of one table, most of them alike; some have odd values, some odd bytes."""
    table = draw(st.sampled_from([LINES, INVOICES, ACCOUNTS]))
    values: list[bytes | None] = []
    for number in range(FEW_RECORDS + 9):
        record = event(table, number)
        kind = draw(st.sampled_from(["good"] * 8 + ["value", "source", "bytes", "null"]))
        if kind in ("value", "source"):
            part = record["after" if kind == "value" else "source"]
            part[draw(st.sampled_from(sorted(part)))] = draw(ODD)
        value = bytearray(encode(record))
        if kind == "bytes":
            at = draw(st.integers(0, len(value) - 1))
            value[at : at + draw(st.integers(0, 2))] = draw(
                st.sampled_from([b"", b" ", b"0", b",", b'"', b"}", b"\xff", b"-"])
            )
        values.append(None if kind == "null" else bytes(value))
    return table, values


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(history=histories(), calm=st.booleans())
def test_template_leaves_no_trace_in_what_is_decoded(history: tuple[Table, list[bytes | None]], calm: bool) -> None:
    table, values = history
    if calm:  # the samples are good, so that there is a template
        for place in {place * (len(values) - 1) // 7 for place in range(8)}:
            values[place] = encode(event(table, place))
    batches = [RawBatch.of("t", 5, [(b"k", value) for value in values], timestamp_ms=9)]
    with pytest.MonkeyPatch.context() as patch:
        one, other = Decoder(source_names=SOURCE_NAMES), Decoder(source_names=SOURCE_NAMES)
        general = one.decode(table, batches)
        patch.setattr(decode, "TEMPLATE_RECORDS", FEW_RECORDS)
        proven = other.decode(table, batches)
        one.close()
        other.close()
    assert_accounted(proven)
    assert same(proven, general)
    if calm:
        assert found(values, table) is not None


def test_numbers_that_are_written_in_an_odd_way_are_dead_as_ever(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "TEMPLATE_RECORDS", FEW_RECORDS)
    values = events(LINES, 50)
    values[3] = values[3].replace(b'"pos":203', b'"pos":203.0')
    values[4] = values[4].replace(b'"quantity":3', b'"quantity":3.5')
    decoded = decoder.decode(LINES, [batch(values)])
    assert sorted(decoded.events["row_offset"].to_pylist()) == [100 + n for n in range(50) if n != 4]
    assert [json.loads(v)["after"]["quantity"] for v in decoded.dead["record_value"].to_pylist()] == [3.5]
