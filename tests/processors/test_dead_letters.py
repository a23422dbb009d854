"""What the dead-letter topic's records become."""

import json
from typing import Any

import pytest

from processors.dead_letters import UNREADABLE, dead_from_producer
from processors.records import DEAD_SCHEMA
from tests.processors.decode_records import batch

LETTER: dict[str, Any] = {
    "origin": "csv",
    "file": "skus.csv",
    "line": 12,
    "table": "skus",
    "raw": 'x,"y\n"é',
    "reason": "malformed_row",
    "detail": "5 columns expected, 2 found",
    "run": 4,
    "ts_ms": 1795439761000,
}


def test_letter_of_a_producer_keeps_raw_text_reason_and_place() -> None:
    rows = dead_from_producer([batch([json.dumps(LETTER).encode()], keys=[b"k"], partition=5)])
    assert rows.schema == DEAD_SCHEMA
    (row,) = rows.to_pylist()
    assert (row["partition"], row["row_offset"], row["record_key"]) == (5, 100, b"k")
    assert row["record_value"] == LETTER["raw"].encode()
    assert row["reason"] == "malformed_row"
    assert row["detail"] == "5 columns expected, 2 found (file skus.csv, line 12, table skus, run 4)"


def test_letter_whose_raw_is_no_text_keeps_its_json() -> None:
    (row,) = dead_from_producer([batch([json.dumps(LETTER | {"raw": {"item_id": 7}}).encode()])]).to_pylist()
    assert json.loads(row["record_value"]) == {"item_id": 7}


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"hello", b"\xff", b"[1]", b'"text"', b"null", b"{}", b"[" * 100_000),
        *(json.dumps({k: v for k, v in LETTER.items() if k != name}).encode() for name in ("raw", "reason", "detail")),
        *(json.dumps(LETTER | {name: "\ud800"}).encode() for name in ("raw", "reason", "detail", "file")),
        json.dumps(LETTER | {"reason": None}).encode(),
    ],
)
def test_anything_else_is_kept_whole(value: bytes | None) -> None:
    (row,) = dead_from_producer([batch([value], keys=[None])]).to_pylist()
    assert (row["reason"], row["record_value"], row["record_key"]) == (UNREADABLE, value, None)


def test_no_letters_give_an_empty_table_of_the_schema() -> None:
    assert dead_from_producer([]) == DEAD_SCHEMA.empty_table()
