"""Records of AWS DMS's Kafka target, translated to the row events that Debezium would have sent for the same changes.

| DMS record                       | becomes                                                                        |
| ---                              | ---                                                                            |
| `load`                           | `r`, at the position that was noted before the task started                    |
| `insert`, `delete`               | `c`, `d`                                                                       |
| `update`                         | `u`; where the message key changed: `d` of the old key, `c` of the new         |
| control `truncate-table` of ours | `t`; without a position a dead letter, for nothing says which rows it is after |
| other control records            | counted as ignored; those that change a table of ours are told                 |
| another schema or table, null    | counted as ignored                                                             |
| anything else                    | a dead letter                                                                  |

Place in the source's history (R1): `metadata.stream-position` begins with the binlog file and the position in it, as in
`mysql-bin-changelog.157832:1975:-1:2002:…`; `metadata.transaction-record-id` counts the rows of a transaction and so
tells rows at one position apart. Both need IncludeTransactionDetails. Transactions follow one another in the binlog
without overlap, so this order is right whichever position of its transaction a record carries.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring  # the one of json.dumps, in C
from typing import Any, Final

from connectors.dms_rows import RowWriter, read_json
from processors.decode_record import BadRecordError
from processors.decode_values import cast_integer, describe
from processors.errors import SettingsError
from processors.reasons import Reason
from processors.tables import TABLES, Table

BEFORE_IMAGE: Final = "before-image"
"""BeforeImageSettings.FieldName of the task."""

_PLACE: Final = re.compile(r"((?:[\w-]*[A-Za-z][\w-]*\.)+[0-9]{1,10})[:.]([0-9]{1,13})(?:[:.].*)?", re.ASCII)
"""File and position at the beginning, in the ranges of RowOrder; what follows is not needed.

The time that it takes grows with the square of the text's length.
"""
_MOST_PLACE: Final = 1_000
"""Characters of a stream-position that are looked at; those of DMS have about a hundred."""
_CHANGES_TABLE: Final = frozenset({"droptable", "renametable", "dropcolumn", "renamecolumn", "addcolumn"})
_LAST_ROW: Final = 10**10 - 1
_OPS: Final = {"load": "r", "insert": "c", "update": "u", "delete": "d"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """A position in a binlog file, as `mysql-bin.000024:373`."""

    file: str
    pos: int

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Raises ValueError for what names no binlog file and position."""
        found = _match_place(text)
        if found is None:
            raise ValueError("no binlog file and position, as in mysql-bin.000024:373")
        return cls(found[1], int(found[2]))


@dataclass(frozen=True)
class Message:
    """A row event. `key` None: a truncate, which goes to one partition of its table."""

    table: str
    key: bytes | None
    value: bytes


@dataclass
class Told:
    """What became of records so far, for people. `notices`: what somebody should look at, each with how often."""

    translated: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)


class DmsTranslator:
    """Translates the records of one source, one after the other, without memory of earlier ones.

    `source_name` becomes `source.name` of every row event (R2), `schema` is the source database, whose rows alone are
    translated. `load_position`: see `_load_place`. `told` counts.
    """

    def __init__(self, *, source_name: str, schema: str, load_position: Place | None = None) -> None:
        self.told = Told()
        self._schema = schema
        self._load_position = load_position
        self._writers = {table.name: RowWriter(table) for table in TABLES}
        self._source = f',"source":{{"connector":"dms","name":{encode_basestring(source_name)},"ts_ms":'
        self._db = f',"db":{encode_basestring(schema)},"table":"'

    def translate(self, value: bytes | None, timestamp_ms: int) -> tuple[Message, ...]:
        """The row events of one record, whose Kafka time is `timestamp_ms`; none if it is ignored, which is counted.

        Raises BadRecordError for a record that belongs to the dead letters, and SettingsError for a `load` record when
        no load position is set.
        """
        if value is None:
            self.told.ignored["tombstone"] += 1
            return ()
        record = _read(value)
        metadata = record.get("metadata")
        if not isinstance(metadata, dict):
            raise BadRecordError(Reason.UNKNOWN_OP, f"metadata is {describe(metadata)}: no record of AWS DMS")
        if metadata.get("record-type") == "control":
            return self._control(metadata, timestamp_ms)
        if metadata.get("schema-name") != self._schema:
            return self._ignore("other_schema", f"records of schema {_name(metadata, 'schema-name')} are ignored")
        writer = self._writers.get(str(metadata.get("table-name")))
        if writer is None:
            return self._ignore("unknown_table", f"records of table {_name(metadata, 'table-name')} are ignored")
        operation = metadata.get("operation")
        data = record.get("data")
        if not isinstance(operation, str) or operation not in _OPS:
            raise BadRecordError(Reason.UNKNOWN_OP, "operation is none of load, insert, update, delete")
        if not isinstance(data, dict):
            raise BadRecordError(Reason.MISSING_ROW, f"data is {describe(data)}, where a row is due")
        try:
            messages = self._row_events(writer, operation, data, record.get(BEFORE_IMAGE), metadata, timestamp_ms)
        except UnicodeEncodeError:
            raise BadRecordError(
                Reason.BAD_VALUE, "a text holds half a surrogate pair, which is no character"
            ) from None
        except RecursionError:
            raise BadRecordError(Reason.BAD_VALUE, "a column is nested too deeply") from None
        self.told.translated[operation] += 1
        return messages

    def _row_events(
        self,
        writer: RowWriter,
        operation: str,
        data: Mapping[str, Any],
        before: object,
        metadata: Mapping[str, Any],
        timestamp_ms: int,
    ) -> tuple[Message, ...]:
        table = writer.table
        if operation == "load":
            tail = self._tail(table, (*self._load_place(table), 0), metadata, timestamp_ms, snapshot=True)
        else:
            tail = self._tail(table, _place(metadata), metadata, timestamp_ms)

        def event(op: str, key: str, before: str, after: str) -> Message:
            value = f'{{"before":{before},"after":{after},"op":"{op}"{tail}'
            return Message(table.name, key.encode(), value.encode())

        key, image = writer.message_key(data), writer.image(data)
        if operation == "delete":
            return (event("d", key, image, "null"),)
        if operation != "update":
            return (event(_OPS[operation], key, "null", image),)
        if not isinstance(before, dict):
            self._notice(f"updates of {table.name} have no {BEFORE_IMAGE}: where a key changes, the old row stays")
            return (event("u", key, "null", image),)
        before = writer.with_whole_key(before, data)
        old_key = writer.message_key(before)
        if old_key == key:
            return (event("u", key, writer.image(before), image),)
        return event("d", old_key, writer.image(before), "null"), event("c", key, "null", image)

    def _tail(
        self,
        table: Table,
        place: tuple[str, int, int],
        metadata: Mapping[str, Any],
        timestamp_ms: int,
        *,
        snapshot: bool = False,
    ) -> str:
        """What an envelope ends with: source and time."""
        file, pos, row = place
        made_ms = _time_ms(metadata.get("timestamp"), timestamp_ms)
        commit_ms = _time_ms(metadata.get("commit-timestamp"), made_ms)
        return (
            f'{self._source}{commit_ms},"snapshot":"{"true" if snapshot else "false"}"{self._db}{table.name}",'
            f'"server_id":0,"gtid":null,"file":"{file}","pos":{pos},"row":{row}}},"ts_ms":{made_ms}}}'
        )

    def _load_place(self, table: Table) -> tuple[str, int]:
        """Where rows of the full load stand: at the position that was noted before the task started.

        DMS sends every change behind the task's own start after the load of its table, and that start is not before
        the noted position: so whatever a load row may have missed comes later and is ordered above it, and what it has
        seen already is sent again and ends in the same row.
        """
        if self._load_position is None:
            raise SettingsError(
                f"DMS loads table {table.name} as a whole, and TRS_DMS_LOAD_POSITION does not say in which order",
                hint="set it to the binlog position that was noted before the task started, see docs/dms.md",
            )
        return self._load_position.file, self._load_position.pos

    def _control(self, metadata: Mapping[str, Any], timestamp_ms: int) -> tuple[Message, ...]:
        operation = str(metadata.get("operation")).lower().replace("-", "").replace("_", "")
        writer = self._writers.get(str(metadata.get("table-name")))
        is_ours = writer is not None and metadata.get("schema-name") == self._schema
        if not is_ours or writer is None:
            self.told.ignored["control"] += 1
            return ()
        table = writer.table
        if operation != "truncatetable":
            self.told.ignored["control"] += 1
            if operation in _CHANGES_TABLE:
                self._notice(f"{metadata['operation']} of {table.name} at the source: its records go on as they are")
            return ()
        try:
            place = _place(metadata, default_row=_LAST_ROW)
        except BadRecordError:
            detail = f"truncate of {table.name} without a position: its rows are still in the lake"
            self._notice(detail)
            raise BadRecordError(Reason.BAD_POSITION, detail) from None
        value = f'{{"before":null,"after":null,"op":"t"{self._tail(table, place, metadata, timestamp_ms)}'
        self.told.translated["truncate"] += 1
        return (Message(table.name, None, value.encode()),)

    def _ignore(self, reason: str, notice: str) -> tuple[Message, ...]:
        self.told.ignored[reason] += 1
        self._notice(notice)
        return ()

    def _notice(self, notice: str) -> None:
        if len(self.told.notices) < _MOST_NOTICES or notice in self.told.notices:
            self.told.notices[notice] += 1


_MOST_NOTICES: Final = 100
"""Names come from the records: beyond so many different ones only the count of ignored records tells of them."""


def _name(metadata: Mapping[str, Any], which: str) -> str:
    """What a record calls something, fit for a log."""
    return repr(str(metadata.get(which))[:64])


def _read(value: bytes) -> dict[str, Any]:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError(Reason.NOT_UTF8, f"not UTF-8 at byte {error.start}") from None
    try:
        record = read_json(text)
    except (ValueError, RecursionError):
        raise BadRecordError(Reason.NOT_JSON, "the value is not JSON") from None
    if not isinstance(record, dict):
        raise BadRecordError(Reason.NOT_JSON, f"the value is {describe(record)}, where an object is due")
    return record


def _place(metadata: Mapping[str, Any], *, default_row: int | None = None) -> tuple[str, int, int]:
    """Binlog file, position and row of a change."""
    text = metadata.get("stream-position")
    if text is None:
        raise BadRecordError(Reason.BAD_POSITION, "no stream-position: the endpoint needs IncludeTransactionDetails")
    found = _match_place(text) if isinstance(text, str) else None
    if found is None:
        raise BadRecordError(Reason.BAD_POSITION, "stream-position does not begin with a binlog file and position")
    row = metadata.get("transaction-record-id", default_row)
    if type(row) is not int:
        try:
            row = cast_integer(row)
        except ValueError as error:
            raise BadRecordError(Reason.BAD_POSITION, f"transaction-record-id {error}") from None
    if not 0 <= row <= _LAST_ROW:
        raise BadRecordError(Reason.BAD_POSITION, "transaction-record-id is out of range")
    return found[1], int(found[2]), row


def _match_place(text: str) -> re.Match[str] | None:
    return _PLACE.fullmatch(text) if len(text) <= _MOST_PLACE else None


def _time_ms(text: object, default: int) -> int:
    """Milliseconds since 1970 of a time that DMS wrote: ISO-8601, UTC where it names no zone."""
    ms = _milliseconds(text) if isinstance(text, str) else None
    return default if ms is None else ms


@lru_cache(4096)
def _milliseconds(text: str) -> int | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    since = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
