"""AWS DMS's records become the row events that Debezium sends for the same changes, or are told as what they are."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.dms import DmsTranslator, Message, Place
from processors.decode import Decoder
from processors.decode_record import BadRecordError
from processors.errors import SettingsError
from processors.order import RowOrder
from processors.records import Decoded, RawBatch
from processors.tables import TABLES, Table
from tests.connectors.dms_records import (
    SCHEMA,
    Change,
    Form,
    compact,
    control,
    debezium_records,
    dms_record,
    dump,
    translate,
)
from tests.processors.decode_records import ACCOUNTS, GOOD_ROWS, INVOICES, LINES, SKUS, captured

SOURCE_NAMES = ("ma", "my")
FORMS = [
    Form(pretty=pretty, nulls=nulls, decimals_as_text=texts, whole_before_image=whole)
    for pretty in (True, False)
    for nulls in (True, False)
    for texts in (True, False)
    for whole in (True, False)
]
FILE = "mysql-bin-changelog.000002"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(source_names=SOURCE_NAMES)
    yield decoder
    decoder.close()


def translator(**settings: Any) -> DmsTranslator:
    return DmsTranslator(**{"source_name": "my", "schema": SCHEMA, **settings})


def decode(decoder: Decoder, table: Table, records: Sequence[tuple[bytes | None, bytes]]) -> Decoded:
    decoded = decoder.decode(table, [RawBatch.of("t", 0, records, timestamp_ms=1)])
    assert decoded.dead.to_pylist() == []
    return decoded


def line_update(before: dict[str, Any] | None, after: dict[str, Any], **fields: Any) -> Change:
    place = {"file": FILE, "pos": 143900, "row": 1, "record": 1, "ts_ms": 1795439760000}
    return Change(LINES, "u", before, after, **{**place, **fields})


def one(values: Sequence[bytes | None], **settings: Any) -> tuple[DmsTranslator, list[Message]]:
    agent = translator(**settings)
    return agent, [message for messages in translate(agent, values).values() for message in messages]


# The same history


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


def final_rows(decoded: Decoded) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The latest event per key (R1), without orders."""
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in decoded.events.to_pylist():
        key = tuple(row[name] for name in decoded.table.key)
        newest = latest.get(key)
        if newest is None or (row["row_order"], row["row_offset"]) > (newest["row_order"], newest["row_offset"]):
            latest[key] = row
    return {
        key: {name: row[name] for name in (*decoded.table.column_names, "is_create", "source_ts")}
        for key, row in latest.items()
        if not row["is_delete"]
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_order_within_a_key_is_that_of_the_binlog(decoder: Decoder) -> None:
    row = GOOD_ROWS["invoice_line_items"]
    places = [("mysql-bin.000009", 99, 3), ("mysql-bin.000010", 4, 1), ("mysql-bin.000010", 4, 2)]
    changes = [
        line_update(row, row | {"quantity": n}, file=file, pos=pos, record=record)
        for n, (file, pos, record) in enumerate(places)
    ]
    _, messages = one([dms_record(change) for change in reversed(changes)])
    events = decode(decoder, LINES, [(m.key, m.value) for m in messages]).events.to_pylist()
    assert [e["quantity"] for e in sorted(events, key=lambda e: e["row_order"])] == [0, 1, 2]
    assert [RowOrder.unpack(int(e["row_order"])) for e in events] == [
        RowOrder(2, int(file[-6:]), pos, record) for file, pos, record in reversed(places)
    ]


# Positions


@pytest.mark.parametrize(
    ("text", "file", "pos"),
    [
        ("mysql-bin-changelog.157832:1975:-1:2002:677883278264080:mysql-bin-changelog.157832:1876", 157832, 1975),
        ("mysql-bin-changelog.000024:373", 24, 373),
        ("mysql-bin-changelog.001924.72843", 1924, 72843),
        ("my.host-1.bin.000007:12:anything, even\ttabs", 7, 12),
    ],
)
def test_stream_position_of_any_form_gives_file_and_position(decoder: Decoder, text: str, file: int, pos: int) -> None:
    change = line_update(None, GOOD_ROWS["invoice_line_items"])
    _, messages = one([dms_record(change, **{"stream-position": text})])
    (event,) = decode(decoder, LINES, [(m.key, m.value) for m in messages]).events.to_pylist()
    assert RowOrder.unpack(int(event["row_order"])) == RowOrder(2, file, pos, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream-position": None},
        {"stream-position": 7},
        {"stream-position": "00000002/7C007178.3.00000002/7C007178"},
        {"stream-position": "mysql-bin.000024"},
        {"stream-position": "mysql-bin.000024:x"},
        {"stream-position": "000024:373"},
        {"stream-position": "mysql-bin.000024:12345678901234"},
        {"transaction-record-id": None},
        {"transaction-record-id": -1},
        {"transaction-record-id": 10**10},
        {"transaction-record-id": "one"},
    ],
    ids=str,
)
def test_change_without_a_place_is_refused(fields: dict[str, Any]) -> None:
    record = dms_record(line_update(None, GOOD_ROWS["invoice_line_items"]), **fields)
    with pytest.raises(BadRecordError) as refused:
        translator().translate(record, 1)
    assert refused.value.reason == "bad_position"


@pytest.mark.parametrize("text", ["", "mysql-bin", "mysql-bin.000024", "000024:4", "mysql-bin.000024:-4"])
def test_load_position_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"as in mysql-bin\.000024:373"):
        Place.parse(text)


def test_rows_of_the_full_load_are_below_every_change_of_their_task(decoder: Decoder) -> None:
    row = GOOD_ROWS["invoice_line_items"]
    load = Change(LINES, "r", None, row | {"quantity": 8}, "", 0, 0, 0, 1795439760000)
    change = line_update(row, row | {"quantity": 9}, file=FILE, pos=900)
    _, messages = one([dms_record(change), dms_record(load)], load_position=Place(FILE, 899))
    decoded = decode(decoder, LINES, [(m.key, m.value) for m in messages])
    assert [event["is_create"] for event in decoded.events.to_pylist()] == [False, True]
    ((final,),) = [final_rows(decoded).values()]
    assert final["quantity"] == 9


def test_full_load_without_a_position_stops_and_says_what_to_set() -> None:
    load = Change(LINES, "r", None, GOOD_ROWS["invoice_line_items"], "", 0, 0, 0, 1795439760000)
    with pytest.raises(SettingsError, match="TRS_DMS_LOAD_POSITION"):
        translator().translate(dms_record(load), 1)


# Keys


def test_change_of_the_message_key_is_a_delete_and_a_create_at_one_position() -> None:
    row = GOOD_ROWS["invoice_line_items"]
    change = line_update(row, row | {"invoice_id": 10})
    for form in FORMS:
        _, (gone, new) = one([dms_record(change, form)])
        assert (gone.key, new.key) == (b'{"invoice_id":9}', b'{"invoice_id":10}')
        first, second = json.loads(gone.value), json.loads(new.value)
        assert (first["op"], first["after"], second["op"], second["before"]) == ("d", None, "c", None)
        assert first["source"] == second["source"]


@pytest.mark.parametrize("before", [{"invoice_id": 8}, {"invoice_id": "8"}, {"invoice_id": 8, "quantity": None}])
def test_before_image_with_only_what_changed_is_completed(before: dict[str, Any]) -> None:
    record = json.loads(dms_record(line_update(None, GOOD_ROWS["invoice_line_items"])))
    _, (gone, new) = one([dump(record | {"before-image": before})])
    assert json.loads(gone.value)["before"]["item_id"] == "0-493-95641-7"
    assert (gone.key, new.key) == (b'{"invoice_id":8}', b'{"invoice_id":9}')


def test_empty_before_image_means_that_no_key_changed() -> None:
    record = json.loads(dms_record(line_update(None, GOOD_ROWS["invoice_line_items"])))
    agent, (message,) = one([dump(record | {"before-image": {}})])
    assert json.loads(message.value)["op"] == "u"
    assert not agent.told.notices


def test_update_without_before_image_is_translated_and_told() -> None:
    agent, (message,) = one([dms_record(line_update(None, GOOD_ROWS["invoice_line_items"]))])
    assert json.loads(message.value)["op"] == "u"
    ((notice, count),) = agent.told.notices.items()
    assert (count, "have no before-image" in notice) == (1, True)


def test_large_integers_that_dms_wrote_as_doubles_or_texts_keep_one_key() -> None:
    for written in (b"9", b"9.0", b'"9"', b"9e0"):
        record = dms_record(line_update(None, GOOD_ROWS["invoice_line_items"]), Form(pretty=False))
        assert b'"invoice_id": 9,' in record
        _, (message,) = one([record.replace(b'"invoice_id": 9,', b'"invoice_id": %s,' % written)])
        assert (message.key, json.loads(message.value)["after"]["invoice_id"]) == (b'{"invoice_id":9}', 9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"invoice_id": None}, "null_value"),
        ({"invoice_id": "nine"}, "bad_value"),
        ({"invoice_id": 9.5}, "bad_value"),
        ({"invoice_id": True}, "bad_value"),
        ({"invoice_id": {"n": 9}}, "bad_value"),
    ],
)
def test_key_that_leads_to_no_partition_is_refused(change: dict[str, Any], reason: str) -> None:
    record = json.loads(dms_record(line_update(None, GOOD_ROWS["invoice_line_items"])))
    record["data"] |= change
    with pytest.raises(BadRecordError) as refused:
        translator().translate(dump(record), 1)
    assert refused.value.reason == reason
    del record["data"]["invoice_id"]
    with pytest.raises(BadRecordError) as refused:
        translator().translate(dump(record), 1)
    assert refused.value.reason == "missing_column"


# Values


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("2018-07-16", 17728),
        ("2018-07-16T00:00:00Z", 17728),
        ("2018-07-16 00:00:00.000", 17728),
        ("0050-01-01", -701265),
    ],
)
def test_dates_become_days(written: str, days: int) -> None:
    record = json.loads(dms_record(Change(INVOICES, "c", None, GOOD_ROWS["invoices"], FILE, 4, 0, 1, 1)))
    record["data"]["date_issued"] = written
    _, (message,) = one([dump(record)])
    assert json.loads(message.value)["after"]["date_issued"] == days


@pytest.mark.parametrize("written", ["0000-00-00", "2018-02-30", "2018-07-16T10:00:00Z", "soon", 1.5, [1], True])
def test_value_that_does_not_cast_is_left_to_the_decoder(decoder: Decoder, written: Any) -> None:
    record = json.loads(dms_record(Change(INVOICES, "c", None, GOOD_ROWS["invoices"], FILE, 4, 0, 1, 1)))
    record["data"]["date_issued"] = written
    _, (message,) = one([dump(record)])
    decoded = decoder.decode(INVOICES, [RawBatch.of("t", 0, [(message.key, message.value)])])
    assert decoded.dead["reason"].to_pylist() == ["bad_value"]


def test_numbers_keep_every_digit() -> None:
    record = json.loads(dms_record(Change(SKUS, "c", None, GOOD_ROWS["skus"], FILE, 4, 0, 1, 1)))
    text = dump(record).replace(b"-2.5", b"1234567890.1234567890")
    _, (message,) = one([text])
    assert b'"item_retail_price":"1234567890.1234567890"' in message.value


def test_columns_that_are_not_declared_go_through_as_they_came() -> None:
    added = {"added": [1, {"a": None}], "Größe": "7", "ratio": 0.1}
    record = json.loads(dms_record(Change(ACCOUNTS, "c", None, GOOD_ROWS["accounts"], FILE, 4, 0, 1, 1)))
    record["data"] |= added
    _, (message,) = one([dump(record).replace(b"0.1", b"0.10000000000000000001")])
    after = json.loads(message.value)["after"]
    assert {name: after[name] for name in added} == added
    assert b"0.10000000000000000001" in message.value


def test_time_is_that_of_the_commit() -> None:
    row = GOOD_ROWS["invoice_line_items"]
    zone = {"commit-timestamp": "2026-11-23T14:36:00.123456+01:00", "timestamp": "2026-11-23T13:36:01.5"}
    values = [
        dms_record(line_update(None, row), **zone),
        dms_record(line_update(None, row), **{"commit-timestamp": None, "timestamp": "no time"}),
    ]
    agent = translator()
    (first,), (second,) = (agent.translate(value, 77) for value in values)
    envelope = json.loads(first.value)
    assert (envelope["source"]["ts_ms"], envelope["ts_ms"]) == (1795440960123, 1795440961500)
    assert json.loads(second.value)["source"]["ts_ms"] == 77


# What is no row


def test_truncate_with_a_position_is_one_truncate(decoder: Decoder) -> None:
    for operation in ("truncate-table", "TruncateTable"):
        agent, (message,) = one([control(operation, "skus", **{"stream-position": f"{FILE}:500"})])
        assert (message.table, message.key) == ("skus", None)
        (truncate,) = decode(decoder, SKUS, [(message.key, message.value)]).truncates
        assert (RowOrder.unpack(truncate.row_order).file, RowOrder.unpack(truncate.row_order).pos) == (2, 500)
        assert agent.told.translated == {"truncate": 1}


def test_truncate_without_a_position_is_refused_aloud() -> None:
    with pytest.raises(BadRecordError, match="truncate of skus without a position: its rows are still in the lake"):
        translator().translate(control("truncate-table", "skus"), 1)


def test_control_records_are_counted_and_those_that_change_our_tables_are_told() -> None:
    agent, messages = one(
        [
            control("create-table", "skus"),
            control("create-table", "awsdms_apply_exceptions", **{"schema-name": ""}),
            control("drop-table", "skus"),
            control("rename-table", "invoices"),
            control("add-column", "invoices"),
            control("drop-table", "skus", **{"schema-name": "elsewhere"}),
            control("truncate-table", "elsewhere"),
        ]
    )
    assert messages == []
    assert agent.told.ignored == {"control": 7}
    assert sorted(notice.split(" at ")[0] for notice in agent.told.notices) == [
        "add-column of invoices",
        "drop-table of skus",
        "rename-table of invoices",
    ]


def test_other_schemas_and_tables_are_counted() -> None:
    row = GOOD_ROWS["invoice_line_items"]
    agent, messages = one(
        [
            dms_record(line_update(None, row), **{"schema-name": "trs_archive"}),
            dms_record(line_update(None, row), **{"table-name": "orders"}),
            dms_record(line_update(None, row), **{"table-name": "orders"}),
            None,
        ]
    )
    assert messages == []
    assert agent.told.ignored == {"other_schema": 1, "unknown_table": 2, "tombstone": 1}
    assert agent.told.notices == {
        "records of schema 'trs_archive' are ignored": 1,
        "records of table 'orders' are ignored": 2,
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (b"{", "not_json"),
        (b"[]", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"9" * 5000, "not_json"),
        (b'{"metadata":NaN}', "not_json"),
        (b"{}", "unknown_op"),
        (b'{"before":null,"after":{},"op":"c"}', "unknown_op"),
        (b'{"metadata":{"schema-name":"trs","table-name":"skus","operation":"merge"},"data":{}}', "unknown_op"),
        (b'{"metadata":{"schema-name":"trs","table-name":"skus","operation":["load"]},"data":{}}', "unknown_op"),
        (b'{"metadata":{"schema-name":"trs","table-name":"skus","operation":"insert"},"data":[]}', "missing_row"),
        (b'{"metadata":{"schema-name":"trs","table-name":"skus","operation":"insert"}}', "missing_row"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_record_of_dms_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError) as refused:
        translator().translate(value, 1)
    assert refused.value.reason == reason


def test_half_a_surrogate_pair_is_refused() -> None:
    record = json.loads(dms_record(line_update(None, GOOD_ROWS["invoice_line_items"])))
    record["data"]["item_id"] = "\ud800"
    with pytest.raises(BadRecordError, match="surrogate"):
        translator().translate(json.dumps(record).encode(), 1)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just([]) | st.just({})


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_record_has_one_outcome_and_never_crashes(data: st.DataObject) -> None:
    row = GOOD_ROWS["invoice_line_items"]
    record = json.loads(dms_record(line_update(row, row | {"invoice_id": 4})))
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([record, record["data"], record["metadata"], record["before-image"]]))
        if isinstance(part, dict) and part:
            part[data.draw(st.sampled_from(sorted(part)))] = data.draw(SCALARS)
        if any(not isinstance(record[name], dict) for name in ("data", "metadata", "before-image")):
            break
    value = bytearray(json.dumps(record).encode())
    if data.draw(st.booleans()):
        value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    agent = translator(load_position=Place(FILE, 4))
    try:
        messages = agent.translate(bytes(value), 1)
    except BadRecordError:
        assert not agent.told.translated
        return
    assert sum(agent.told.translated.values()) == bool(messages)
    for message in messages:
        assert isinstance(json.loads(message.value), dict)
        assert message.key is None or message.key == compact(json.loads(message.key))
