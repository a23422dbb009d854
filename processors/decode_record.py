"""One record of a row-event topic, judged exactly: the reference for what is a row event and what is a bad record.

The table-speed path (processors/decode_sql.py) takes only the records whose form it can prove, and every other record
comes here, so this module alone says why a record is refused.

| value                                    | result                                                          |
| ---                                      | ---                                                             |
| null                                     | ignored `tombstone`                                             |
| `{"schema":…, "payload":…}`              | the payload is judged                                           |
| op `c`, `r`                              | upsert of `after`, a create                                     |
| op `u`                                   | upsert of `after`; key changed: delete of `before`, then create |
| op `d`                                   | delete of `before`                                              |
| op `t`                                   | truncate                                                        |
| no op, with `ddl` / `status`+`id` / only `ts_ms` | ignored `schema_change` / `transaction_metadata` / `heartbeat` |
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from processors.decode_raw import LAST_MS, UNIX_EPOCH, kafka_time
from processors.decode_values import Number, cast, cast_integer, describe
from processors.order import BATCH_SOURCE_NAME, RowOrder
from processors.reasons import Reason
from processors.tables import Column, Table

_FILE: Final = re.compile(r"(?:.*[A-Za-z].*\.)?([0-9]{1,10})", re.ASCII | re.DOTALL)
"""`mysql-bin.000002`, or digits alone."""
_ROW_OPS: Final = ("c", "r", "u", "d")

Envelope = Mapping[str, Any]


class BadRecordError(Exception):
    """A record for the dead letters: `detail` is a sentence without the record's values."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Row:
    """One typed row of an event, by column name."""

    is_delete: bool
    is_create: bool
    values: Mapping[str, object]
    undeclared: Mapping[str, object] = field(default_factory=dict)
    """What the row holds besides, nulls left out; of an image that was not rewritten."""


@dataclass(frozen=True)
class Judged:
    """What a good record says: rows, or a truncate, or (`ignored` is the reason) nothing."""

    rows: tuple[Row, ...] = ()
    row_order: int = 0
    source_ts: datetime = UNIX_EPOCH
    is_truncate: bool = False
    ignored: str | None = None


def source_epochs(source_names: Sequence[str]) -> dict[str, int]:
    """The source epoch of every known source name (R2)."""
    epochs = {name: place for place, name in reversed(list(enumerate(source_names, start=1)))}
    return epochs | {BATCH_SOURCE_NAME: 0}


def judge_record(
    *,
    table: Table,
    epochs: Mapping[str, int],
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int,
    relaxed: Callable[[str], str | None],
) -> Judged:
    """Judges one record. `timestamp_ms` is Kafka's and stands in where the record has no time of its own.

    `relaxed` rewrites a text that Python's JSON reader refuses into strict JSON of what the decoder reads, or None.
    Raises BadRecordError.
    """
    if value is None:
        return Judged(ignored="tombstone")
    envelope = _read_envelope(value, relaxed)
    op = envelope.get("op")
    if op is None:
        return Judged(ignored=_reason_to_ignore(envelope))
    if not isinstance(op, str) or (op not in _ROW_OPS and op != "t"):
        raise BadRecordError(Reason.UNKNOWN_OP, "op is none of c, r, u, d, t")
    source = envelope.get("source")
    if not isinstance(source, dict):
        raise BadRecordError(Reason.BAD_POSITION, f"source is {describe(source)}, where an object is due")
    if source.get("table") != table.name:
        raise BadRecordError(Reason.UNKNOWN_TABLE, f"source.table is not {table.name}")
    row_order = _row_order(source, epochs)
    source_ts = _source_ts(source, envelope, timestamp_ms)
    if op == "t":
        return Judged(row_order=row_order, source_ts=source_ts, is_truncate=True)
    if not key:
        raise BadRecordError(Reason.NULL_KEY, "the record has no key, so its partition is arbitrary")
    return Judged(rows=_rows(table, op, envelope), row_order=row_order, source_ts=source_ts)


def _read_envelope(value: bytes, relaxed: Callable[[str], str | None]) -> Envelope:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError(Reason.NOT_UTF8, f"not UTF-8 at byte {error.start}") from error
    try:
        envelope = _parse(text)
    except (json.JSONDecodeError, RecursionError) as error:
        rewritten = relaxed(text)
        if rewritten is None:
            raise BadRecordError(Reason.NOT_JSON, f"not JSON: {error}") from error
        try:
            envelope = _parse(rewritten)
        except RecursionError:
            raise BadRecordError(Reason.NOT_JSON, "nested too deeply") from error
    if not isinstance(envelope, dict):
        raise BadRecordError(Reason.NOT_JSON, f"the value is {describe(envelope)}, where an object is due")
    payload = envelope.get("payload")
    if payload is None or envelope.get("op") is not None:
        return envelope
    if not isinstance(payload, dict):
        raise BadRecordError(Reason.NOT_JSON, f"payload is {describe(payload)}, where an object is due")
    return payload


def _parse(text: str) -> Any:
    def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    return json.loads(text, object_pairs_hook=first_wins, parse_int=Number, parse_float=Number, parse_constant=Number)


def _reason_to_ignore(envelope: Envelope) -> str:
    if "ddl" in envelope or "databaseName" in envelope:
        return "schema_change"
    if "status" in envelope and "id" in envelope:
        return "transaction_metadata"
    if set(envelope) == {"ts_ms"}:
        return "heartbeat"
    raise BadRecordError(Reason.UNKNOWN_OP, "the value has no op")


def file_number(file: object) -> int | None:
    """The number at the end of a binlog file's name, None where there is none."""
    found = _FILE.fullmatch(file) if isinstance(file, str) else None
    return None if found is None else int(found[1])


def _row_order(source: Envelope, epochs: Mapping[str, int]) -> int:
    name = source.get("name")
    if not isinstance(name, str) or name not in epochs:
        raise BadRecordError(Reason.UNKNOWN_SOURCE, "source.name is not in the setting of source names")
    number = file_number(source.get("file"))
    if number is None:
        raise BadRecordError(Reason.BAD_POSITION, "source.file does not end in a number")
    row = source.get("row")
    try:
        pos_number = cast_integer(source.get("pos"))
        row_number = 0 if row is None else cast_integer(row)
        return RowOrder(epochs[name], number, pos_number, row_number).packed()
    except ValueError as error:
        raise BadRecordError(Reason.BAD_POSITION, f"source.pos or source.row {error}") from error


def _source_ts(source: Envelope, envelope: Envelope, timestamp_ms: int) -> datetime:
    for value in (source.get("ts_ms"), envelope.get("ts_ms")):
        try:
            ms = cast_integer(value)
        except ValueError:
            continue
        if 0 < ms <= LAST_MS:
            return UNIX_EPOCH + timedelta(milliseconds=ms)
    return kafka_time(timestamp_ms)


def _rows(table: Table, op: str, envelope: Envelope) -> tuple[Row, ...]:
    side = "before" if op == "d" else "after"
    image = envelope.get(side)
    if not isinstance(image, dict):
        raise BadRecordError(Reason.MISSING_ROW, f"op {op} has no {side} image")
    if op == "d":
        return (Row(is_delete=True, is_create=False, values=_deleted_values(table, image)),)
    values = {column.name: _required_value(column, image) for column in table.columns}
    undeclared = {name: v for name, v in image.items() if v is not None and table.column(name) is None}
    before = envelope.get("before")
    old_key = _key_values(table, before) if op == "u" and isinstance(before, dict) else None
    if old_key is None or all(values[name] == old for name, old in old_key.items()):
        return (Row(is_delete=False, is_create=op != "u", values=values, undeclared=undeclared),)
    return (
        Row(is_delete=True, is_create=False, values=old_key),
        Row(is_delete=False, is_create=True, values=values, undeclared=undeclared),
    )


def _lookup(column: Column, image: Envelope) -> object:
    """The first of the column's names that holds something, else None."""
    return next((image[n] for n in (column.name, *column.aliases) if image.get(n) is not None), None)


def _required_value(column: Column, image: Envelope) -> object:
    value = _lookup(column, image)
    if value is not None:
        return _cast(value, column)
    if column.nullable or column.optional:
        return None
    if any(name in image for name in (column.name, *column.aliases)):
        raise BadRecordError(Reason.NULL_VALUE, f"{column.name} is null")
    raise BadRecordError(Reason.MISSING_COLUMN, f"{column.name} is missing")


def _deleted_values(table: Table, image: Envelope) -> dict[str, object]:
    """The key, which must be there, and whatever else the before image holds that is valid."""
    values: dict[str, object] = {}
    for column in table.columns:
        try:
            values[column.name] = _required_value(column, image)
        except BadRecordError:
            if column.name in table.key:
                raise
            values[column.name] = None
    return values


def _key_values(table: Table, before: Envelope) -> dict[str, object] | None:
    """The primary key that the before image holds, or None if it does not hold all of it."""
    columns = [column for column in table.columns if column.name in table.key]
    found = {column: _lookup(column, before) for column in columns}
    if any(value is None for value in found.values()):
        return None
    return {column.name: _cast(value, column) for column, value in found.items()}


def _cast(value: object, column: Column) -> object:
    try:
        return cast(value, column)
    except ValueError as error:
        raise BadRecordError(Reason.BAD_VALUE, f"{column.name} {error}") from error
