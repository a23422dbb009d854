"""What becomes of each kind of record of AWS DMS; whole histories are in test_dms_history.py."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.dms import DmsTranslator, Message, Place
from processors.decode import Decoder
from processors.decode_record import BadRecordError
from processors.errors import SettingsError
from processors.order import RowOrder
from processors.records import RawBatch
from tests.connectors.dms_records import (
    FORMS,
    SOURCE_NAMES,
    Change,
    Form,
    compact,
    control,
    decode,
    dms_record,
    dump,
    final_rows,
    translate,
    translator,
)
from tests.processors.decode_records import ACCOUNTS, GOOD_ROWS, INVOICES, LINES, SKUS

FILE = "mysql-bin-changelog.000002"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(source_names=SOURCE_NAMES)
    yield decoder
    decoder.close()


def line_update(before: dict[str, Any] | None, after: dict[str, Any], **fields: Any) -> Change:
    place = {"file": FILE, "pos": 143900, "row": 1, "record": 1, "ts_ms": 1795439760000}
    return Change(LINES, "u", before, after, **{**place, **fields})


def one(values: Sequence[bytes | None], **settings: Any) -> tuple[DmsTranslator, list[Message]]:
    agent = translator(**settings)
    return agent, [message for messages in translate(agent, values).values() for message in messages]


# Positions


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
        {"stream-position": "mysql-bin.000024:373:" + "x" * 1_000},
        {"transaction-record-id": None},
        {"transaction-record-id": -1},
        {"transaction-record-id": 10**10},
        {"transaction-record-id": "one"},
    ],
    ids=lambda fields: str(fields)[:60],
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
    agent = translator()
    with pytest.raises(BadRecordError, match="truncate of skus without a position: its rows are still in the lake"):
        agent.translate(control("truncate-table", "skus"), 1)
    assert list(agent.told.notices) == ["truncate of skus without a position: its rows are still in the lake"]


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


def nested(brackets: bytes, depth: int) -> bytes:
    """A record whose added column is nested so deeply."""
    value = dms_record(line_update(None, GOOD_ROWS["invoice_line_items"] | {"added": "here"}))
    assert value.count(b'"here"') == 1
    return value.replace(b'"here"', brackets[:-1] * depth + b"1" + brackets[-1:] * depth)


@pytest.mark.parametrize("brackets", [b"[]", b'{"a":}'])
def test_column_that_is_nested_too_deeply_to_be_written_is_refused(brackets: bytes) -> None:
    translator().translate(nested(brackets, 100), 1)
    with pytest.raises(BadRecordError, match="nested too deeply") as refused:
        translator().translate(nested(brackets, 800), 1)
    assert refused.value.reason == "bad_value"


LONG = "mysql-bin." + "a" * 1_000_000
SCALARS = (
    st.just(LONG)
    | st.just("here")
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(list)
    | st.builds(dict)
)


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
    large = data.draw(st.sampled_from(["", "text", "nest"]))
    if large == "text" and isinstance(record["metadata"], dict) and record["metadata"]:
        record["metadata"][data.draw(st.sampled_from(sorted(record["metadata"])))] = LONG
    if large == "nest" and isinstance(record["data"], dict):
        record["data"]["added"] = "here"
    depth = data.draw(st.integers(0, 2_000))
    value = bytearray(json.dumps(record).encode().replace(b'"here"', b"[" * depth + b"1" + b"]" * depth))
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
