"""One history of row changes as Debezium and as AWS DMS write it.

DMS's forms are those of its documentation and of records that its users published: `data`, `before-image` and
`metadata`; a null or an empty text is left out unless IncludeNullAndEmpty is set; decimals are numbers, days ISO texts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from connectors.dms import DmsTranslator, Message
from processors.decode import Decoder
from processors.records import Decoded, RawBatch
from processors.tables import TABLES_BY_NAME, Kind, Table

SCHEMA = "trs"
SOURCE_NAMES = ("ma", "my")
Image = Mapping[str, Any]
"""A row as Debezium writes it: decimals are texts, days numbers."""


@dataclass(frozen=True)
class Form:
    """How a DMS endpoint and task are set."""

    pretty: bool = True
    nulls: bool = True
    decimals_as_text: bool = False
    whole_before_image: bool = True


FORMS = [
    Form(pretty=pretty, nulls=nulls, decimals_as_text=texts, whole_before_image=whole)
    for pretty in (True, False)
    for nulls in (True, False)
    for texts in (True, False)
    for whole in (True, False)
]
"""Every way in which they may be set."""


@dataclass(frozen=True)
class Change:
    """One row change; `row` counts within the row event of the binlog, `record` within the transaction."""

    table: Table
    op: str
    before: Image | None
    after: Image | None
    file: str
    pos: int
    row: int
    record: int
    ts_ms: int


_NUMBER = "\x00number "
"""Begins a text that stands for a number with just these characters."""


def dms_value(table: Table, name: str, value: Any, form: Form) -> Any:
    """A value as DMS writes it."""
    column = table.column(name)
    if column is None or value is None:
        return value
    if column.kind is Kind.DECIMAL and not form.decimals_as_text:
        return f"{_NUMBER}{value}"
    if column.kind is Kind.DATE:
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
    return value


def dms_row(table: Table, image: Image, form: Form) -> dict[str, Any]:
    """A row as DMS writes it."""
    return {n: dms_value(table, n, v, form) for n, v in image.items() if form.nulls or v not in (None, "")}


def dms_record(change: Change, form: Form = Form(), **metadata: Any) -> bytes:
    """The change as DMS writes it. `metadata` wins over what is usual; None takes a field out."""
    operation = {"r": "load", "c": "insert", "u": "update", "d": "delete"}[change.op]
    committed = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=change.ts_ms)).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ"
    )
    fields: dict[str, Any] = {
        "timestamp": committed,
        "record-type": "data",
        "operation": operation,
        "partition-key-type": "primary-key",
        "schema-name": SCHEMA,
        "table-name": change.table.name,
    }
    if operation != "load":
        end = change.pos + 27
        fields |= {
            "transaction-id": 677883278264080,
            "transaction-record-id": change.record,
            "prev-transaction-id": 677883278264000,
            "prev-transaction-record-id": 1,
            "commit-timestamp": committed,
            "stream-position": f"{change.file}:{change.pos}:-1:{end}:677883278264080:{change.file}:4",
        }
    fields = {name: value for name, value in (fields | metadata).items() if value is not None}
    image = change.before if change.op == "d" else change.after
    assert image is not None
    record: dict[str, Any] = {"data": dms_row(change.table, image, form)}
    if operation == "update" and change.before is not None:
        before = {n: v for n, v in change.before.items() if form.whole_before_image or n in change.table.key}
        record["before-image"] = dms_row(change.table, before, form)
    record["metadata"] = fields
    return dump(record, form)


def dump(record: Any, form: Form = Form()) -> bytes:
    """JSON as MessageFormat JSON or JSON_UNFORMATTED writes it."""
    text = json.dumps(record, ensure_ascii=False, indent="\t" if form.pretty else None)
    text = re.sub(r'"\\u0000number ([^"]+)"', r"\1", text)
    return text.encode() if form.pretty else f"{text}\n".encode()


def control(operation: str, table: str, **metadata: Any) -> bytes:
    """A control record."""
    fields = {
        "timestamp": "2024-07-29T00:30:47.266581Z",
        "record-type": "control",
        "operation": operation,
        "partition-key-type": "task-id",
        "partition-key-value": "serv-res-id-1722195358878-yhru",
        "schema-name": SCHEMA,
        "table-name": table,
    }
    return dump({"control": {}, "metadata": fields | metadata})


def debezium_records(change: Change, source_name: str) -> list[tuple[bytes | None, bytes]]:
    """The change as Debezium writes it, (key, value): where the message key changes a `d` and a `c`."""
    before, after, table = change.before, change.after, change.table

    def record(op: str, before: Image | None, after: Image | None) -> tuple[bytes, bytes]:
        source = {
            "name": source_name,
            "ts_ms": change.ts_ms,
            "table": table.name,
            "file": change.file,
            "pos": change.pos,
            "row": change.row,
        }
        image = after if after is not None else before
        assert image is not None
        key = {name: image[name] for name in table.event_key}
        value = {"before": before, "after": after, "source": source, "op": op, "ts_ms": change.ts_ms}
        return compact(key), compact(value)

    if before is not None and after is not None and any(before[name] != after[name] for name in table.event_key):
        return [record("d", before, None), record("c", None, after)]
    return [record(change.op, before, after)]


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def translate(translator: DmsTranslator, values: Sequence[bytes | None]) -> dict[Table, list[Message]]:
    """All row events of the records by table."""
    found: dict[Table, list[Message]] = {}
    for value in values:
        for message in translator.translate(value, 1):
            found.setdefault(TABLES_BY_NAME[message.table], []).append(message)
    return found


def translator(**settings: Any) -> DmsTranslator:
    """A translator of source `my`."""
    return DmsTranslator(**{"source_name": "my", "schema": SCHEMA, **settings})


def decode(decoder: Decoder, table: Table, records: Sequence[tuple[bytes | None, bytes]]) -> Decoded:
    """The records decoded as the worker does; none may be refused."""
    decoded = decoder.decode(table, [RawBatch.of("t", 0, records, timestamp_ms=1)])
    assert decoded.dead.to_pylist() == []
    return decoded


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
