"""The same history of row changes, written by Debezium and by AWS DMS, ends in the same rows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.dms import Place
from processors.decode import Decoder
from processors.records import Decoded
from processors.tables import TABLES, Table
from tests.connectors.dms_records import (
    FORMS,
    SOURCE_NAMES,
    Change,
    Form,
    control,
    debezium_records,
    decode,
    dms_record,
    final_rows,
    translate,
    translator,
)
from tests.processors.decode_records import GOOD_ROWS, captured


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(source_names=SOURCE_NAMES)
    yield decoder
    decoder.close()


@dataclass(frozen=True)
class History:
    """Debezium's captured records of one server in the order of its binlog, and the same as changes and truncates."""

    records: list[tuple[Table, bytes | None, bytes]]
    changes: list[Change]
    truncates: list[tuple[Table, str, int]]

    @classmethod
    def of(cls, server: str) -> "History":
        rows = []
        for record in captured(server):
            envelope = json.loads(record.value or b"{}")
            if envelope.get("op") is not None:
                source = envelope["source"]
                place = (source["file"], source["pos"], source["row"])
                rows.append((place, envelope["op"] != "d", record, envelope))
        history = cls([], [], [])
        removed: dict[tuple[str, int, int], Any] = {}
        for place, _, record, envelope in sorted(rows, key=lambda row: row[:2]):
            history.records.append((record.table, record.key, record.value or b""))
            op, before = envelope["op"], envelope["before"]
            if record.label == "pk-change-d":
                removed[place] = before
            elif op == "t":
                history.truncates.append((record.table, *place[:2]))
            else:
                if record.label == "pk-change-c":
                    op, before = "u", removed.pop(place)
                ts_ms = envelope["source"]["ts_ms"]
                history.changes.append(Change(record.table, op, before, envelope["after"], *place, place[2], ts_ms))
        assert not removed
        return history


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("server", ["mysql", "mariadb"])
def test_captured_changes_decode_alike_whether_debezium_or_dms_wrote_them(
    decoder: Decoder, server: str, form: Form
) -> None:
    history = History.of(server)
    start = next(Place(change.file, change.pos) for change in history.changes if change.op == "r")
    agent = translator(source_name=server[:2], load_position=start)
    sent = [dms_record(change, form) for change in history.changes]
    sent += [
        control("truncate-table", table.name, **{"stream-position": f"{file}:{pos}", "transaction-record-id": 0})
        for table, file, pos in history.truncates
    ]
    found = translate(agent, sent)
    assert sum(agent.told.translated.values()) == len(sent) > 40
    assert not agent.told.notices
    for table in TABLES:
        wanted = [(key, value) for of, key, value in history.records if of is table]
        got = [(message.key, message.value) for message in found[table]]
        assert [key for key, _ in got] == [key for key, _ in wanted]
        one, other = decode(decoder, table, wanted), decode(decoder, table, got)
        assert other.events.num_rows > 0
        assert comparable(other, form) == comparable(one, form)
        assert [t.row_order for t in other.truncates] == [t.row_order for t in one.truncates]


def comparable(decoded: Decoded, form: Form) -> list[dict[str, Any]]:
    """The events in order, without what cannot be equal: offsets, and what DMS was told to leave out."""
    rows = sorted(
        decoded.events.to_pylist(), key=lambda row: (row["row_order"], row["row_offset"], not row["is_delete"])
    )
    keys = {"is_delete", "is_create", "row_order", "source_ts", *decoded.table.key}
    # the image of a deleted row is DMS's before image where the message key changed: the key alone, if it is set so
    return [
        {
            name: value
            for name, value in row.items()
            if name != "row_offset" and (form.whole_before_image or not row["is_delete"] or name in keys)
        }
        for row in rows
    ]


ITEMS = st.sampled_from(["a", "0-493-95641-7", 'quote " and \\', "tab\tand\x1f", "é漢😀", "7"])
KEYS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "accounts": st.fixed_dictionaries({"account_id": st.integers(1, 3)}),
    "skus": st.fixed_dictionaries({"item_id": ITEMS}),
    "invoices": st.fixed_dictionaries({"invoice_id": st.sampled_from([1, 2, 2**53 + 1, -(2**63)])}),
    "invoice_line_items": st.fixed_dictionaries({"invoice_id": st.integers(1, 3), "item_id": ITEMS}),
}
REST: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "accounts": st.fixed_dictionaries(
        {
            "company_name": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            "gender": st.sampled_from([None, "F", "M"]),
            "joining_date": st.integers(-700_000, 20_000),
        }
    ),
    "skus": st.fixed_dictionaries(
        {"item_retail_price": st.sampled_from(["-1.50", "1234567890.10", "0.0000000001", "7", "12345.1234567890"])}
    ),
    "invoices": st.fixed_dictionaries(
        {"account_id": st.integers(1, 9), "payment_dates": st.none() | st.integers(0, 20_000)}
    ),
    "invoice_line_items": st.fixed_dictionaries({"quantity": st.integers(-(2**31), 2**31 - 1)}),
}


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Transactions of row events of rows, as a database would log them; keys change, rows come back."""
    live: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = {}
    changes: list[Change] = []
    file, pos = 1, 4
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()) and draw(st.booleans()):
            file, pos = file + draw(st.integers(1, 12)), 4
        record = 0
        ts_ms = 1_700_000_000_000 + 1000 * len(changes)
        for _ in range(draw(st.integers(1, 3))):
            pos += draw(st.integers(30, 900))
            table = draw(st.sampled_from(TABLES))
            for row in range(draw(st.integers(1, 3))):
                key = draw(KEYS[table.name])
                at = (table.name, tuple(key.values()))
                old = live.get(at)
                new = GOOD_ROWS[table.name] | key | draw(REST[table.name])
                op = "c" if old is None else draw(st.sampled_from(["u", "u", "d"]))
                if op == "u" and draw(st.booleans()):
                    moved = draw(KEYS[table.name])
                    if (table.name, tuple(moved.values())) not in live:
                        new |= moved
                if old is not None:
                    del live[at]
                if op != "d":
                    live[table.name, tuple(new[name] for name in table.key)] = new
                record += 1
                after = None if op == "d" else new
                place = (f"mysql-bin-changelog.{file:06}", pos, row, record, ts_ms)
                changes.append(Change(table, op, old, after, *place))
    return changes


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=histories(),
    pretty=st.booleans(),
    texts=st.booleans(),
    whole=st.booleans(),
    of_transaction=st.booleans(),
    again=st.randoms(use_true_random=False),
)
def test_random_history_ends_in_the_rows_of_debezium(
    decoder: Decoder, history: list[Change], pretty: bool, texts: bool, whole: bool, of_transaction: bool, again: Any
) -> None:
    """Also where DMS gives all rows of a transaction its own position, sends records twice, and partitions mix."""
    form = Form(pretty=pretty, decimals_as_text=texts, whole_before_image=whole)
    starts: dict[int, int] = {}
    for change in history:
        starts.setdefault(change.ts_ms, change.pos)
    records = [
        dms_record(
            change,
            form,
            **({"stream-position": f"{change.file}:{starts[change.ts_ms]}"} if of_transaction else {}),
        )
        for change in history
    ]
    sent = records + again.sample(records, again.randrange(len(records) + 1))
    again.shuffle(sent)
    found = translate(translator(), sent)
    for table in {change.table for change in history}:
        debezium = [record for change in history if change.table is table for record in debezium_records(change, "my")]
        got = [(message.key, message.value) for message in found[table]]
        assert {key for key, _ in got} == {compact_as_connect(key) for key, _ in debezium}
        assert final_rows(decode(decoder, table, got)) == final_rows(decode(decoder, table, debezium))


def compact_as_connect(key: bytes | None) -> bytes:
    """A key as Kafka Connect writes it: characters beyond the basic plane and control characters in capitals."""
    assert key is not None
    escaped = key.decode().replace("😀", "\\uD83D\\uDE00").replace("\\u001f", "\\u001F")
    return escaped.encode()
