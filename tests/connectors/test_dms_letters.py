"""A refused record of AWS DMS reaches the dead letters whole, with its place; what is too large says so."""

import json

from connectors.dms_letters import dead_letter_value
from connectors.kafka import Record
from processors.dead_letters import UNREADABLE, dead_from_producer
from processors.decode_record import BadRecordError
from processors.reasons import Reason
from tests.processors.decode_records import batch

ERROR = BadRecordError(Reason.BAD_POSITION, "no stream-position")


def stored(value: bytes | None) -> dict[str, object]:
    """The row of the dead-letter table that a record with this value becomes."""
    letter = dead_letter_value(Record("dms.trs.skus", 3, 1042, 5, value), ERROR, ts_ms=7)
    assert len(letter) < 1_000_000
    (row,) = dead_from_producer([batch([letter])]).to_pylist()
    return dict(row)


def test_letter_keeps_value_reason_and_place() -> None:
    row = stored('{"data":"é\\n"}'.encode())
    assert row["record_value"] == '{"data":"é\\n"}'.encode()
    assert row["reason"] == "bad_position"
    assert row["detail"] == "no stream-position (topic dms.trs.skus, partition 3, offset 1042)"


def test_bytes_that_are_no_text_are_kept() -> None:
    for value in (b"\xff\x00\xfe", bytes(range(256)), b""):
        assert stored(value)["record_value"] == value


def test_record_that_is_too_large_for_a_letter_is_cut_and_says_so() -> None:
    for value in (b"\x01" * 999_000, b"\xff" * 999_000, "é".encode() * 499_000):
        row = stored(value)
        assert row["record_value"] == value[:100_000]
        assert f"of {len(value)} bytes only the first 100000 are kept" in str(row["detail"])


def test_letter_with_damaged_base64_is_kept_as_it_came() -> None:
    letter = json.loads(dead_letter_value(Record("t", 0, 0, 0, b"\xff"), ERROR, ts_ms=7))
    for damage in ({"raw_base64": "?"}, {"raw_base64": 7}, {"raw_base64": "é"}):
        value = json.dumps(letter | damage).encode()
        (row,) = dead_from_producer([batch([value])]).to_pylist()
        assert (row["reason"], row["record_value"]) == (UNREADABLE, value)
