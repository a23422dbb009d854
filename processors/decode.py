"""From raw batches of one table to typed row events, at table speed; one bad record costs itself alone.

Each slice of records goes through one SQL statement (processors/decode_sql.py). What that does not take is judged
record by record (processors/decode_record.py) and becomes rows, a truncate, a count of ignored records, or a dead
letter.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors.decode_record import LAST_MS, BadRecordError, Judged, judge_record, source_epochs
from processors.decode_sql import RAW, decode_sql, relaxed_structure
from processors.records import DEAD_SCHEMA, Decoded, RawBatch, Truncate, event_schema
from processors.tables import Table

SLICE_RECORDS = 16_384
"""Records per statement: their bytes stay near the processor's cache, and memory is used again slice after slice."""
FEW_RECORDS = 64
"""A slice of fewer records is judged one by one, which costs less than planning a statement."""
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Slice:
    """Consecutive records of one batch."""

    batch: RawBatch
    start: int
    stop: int


@dataclass
class _Outcome:
    """What became of some records."""

    events: list[pa.Table] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)
    truncates: list[Truncate] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


class Decoder:
    """Decodes the row events of any declared table. Used by one thread at a time; `close` releases its connections.

    `source_names`: the setting of source names in order (R2). `threads`: slices that are decoded side by side.
    """

    def __init__(self, *, source_names: tuple[str, ...], threads: int = 1) -> None:
        self._epochs = source_epochs(source_names)
        self._cons = [_connect() for _ in range(max(threads, 1))]
        self._idle: SimpleQueue[duckdb.DuckDBPyConnection] = SimpleQueue()
        for con in self._cons:
            self._idle.put(con)
        self._pool = ThreadPoolExecutor(len(self._cons), thread_name_prefix="decode") if threads > 1 else None

    def decode(self, table: Table, batches: Sequence[RawBatch]) -> Decoded:
        """Every record of the batches as rows, truncates, counts or dead letters; rows are in no particular order."""
        read = sum(len(batch.values) for batch in batches)
        outcomes: Iterator[_Outcome]
        if read < FEW_RECORDS or self._pool is None:
            outcomes = (self._decode_slice(table, part) for part in _slices(batches))
        else:
            outcomes = self._pool.map(lambda part: self._decode_slice(table, part), _slices(batches))
        total = _Outcome()
        for outcome in outcomes:
            total.events += outcome.events
            total.dead += outcome.dead
            total.truncates += outcome.truncates
            total.ignored.update(outcome.ignored)
        schema = event_schema(table)
        return Decoded(
            table=table,
            events=pa.concat_tables(total.events) if total.events else schema.empty_table(),
            dead=pa.Table.from_pylist(total.dead, schema=DEAD_SCHEMA),
            truncates=tuple(total.truncates),
            ignored=total.ignored,
            read=read,
        )

    def close(self) -> None:
        """Ends the threads and connections."""
        if self._pool is not None:
            self._pool.shutdown()
        for con in self._cons:
            con.close()

    def _decode_slice(self, table: Table, part: _Slice) -> _Outcome:
        con = self._idle.get()
        try:
            outcome = _Outcome()
            left_over: Sequence[int] = range(part.start, part.stop)
            if part.stop - part.start >= FEW_RECORDS:
                left_over = self._decode_fast(con, table, part, outcome)
            if left_over:
                self._decode_exactly(con, table, part.batch, left_over, outcome)
            return outcome
        finally:
            self._idle.put(con)

    def _decode_fast(
        self, con: duckdb.DuckDBPyConnection, table: Table, part: _Slice, outcome: _Outcome
    ) -> Sequence[int]:
        """Adds the events of the records that the statement takes; returns the places of the others."""
        batch = part.batch
        keys = batch.keys[part.start : part.stop]
        con.register(RAW, pa.table({"value": _texts(batch.values[part.start : part.stop])}))
        rows = con.sql(decode_sql(table, self._epochs)).to_arrow_table()
        con.unregister(RAW)
        taken = rows["taken"].combine_chunks()
        if not all(keys):
            taken = pc.and_(taken, pa.array([bool(key) for key in keys]))
        offsets = pa.array(batch.offsets[part.start : part.stop], pa.int64())
        rows = rows.append_column("row_offset", offsets)
        left_over: Sequence[int] = ()
        if not pc.all(taken).as_py():
            left_over = [part.start + place for place in pc.indices_nonzero(pc.invert(taken)).to_pylist()]
            rows = rows.filter(taken)
        self._add_events(table, batch, rows, outcome)
        return left_over

    def _add_events(self, table: Table, batch: RawBatch, rows: pa.Table, outcome: _Outcome) -> None:
        schema = event_schema(table)
        changed = rows["key_changed"]
        if pc.any(changed).as_py():
            old = rows.filter(changed)
            size = old.num_rows
            deletes = {name: pa.nulls(size, schema.field(name).type) for name in table.column_names}
            deletes |= {name: old[f"old_{name}"] for name in table.key}
            deletes |= {name: old[name] for name in ("row_order", "row_offset", "source_ts")}
            deletes |= {"bucket": _repeat(batch.partition, size), "is_delete": _repeat(True, size)}
            deletes |= {"is_create": _repeat(False, size)}
            outcome.events.append(pa.table({f.name: deletes[f.name] for f in schema}).cast(schema))
            place = rows.schema.get_field_index("is_create")
            rows = rows.set_column(place, "is_create", pc.or_(rows["is_create"], changed))
        rows = rows.append_column("bucket", _repeat(batch.partition, rows.num_rows))
        outcome.events.append(rows.select(schema.names).cast(schema))

    def _decode_exactly(
        self,
        con: duckdb.DuckDBPyConnection,
        table: Table,
        batch: RawBatch,
        places: Sequence[int],
        outcome: _Outcome,
    ) -> None:
        structure = relaxed_structure(table)

        def relaxed(text: str) -> str | None:
            try:
                found = con.execute("SELECT TRY(to_json(json_transform(?, ?)))", [text, structure]).fetchone()
            except (duckdb.Error, UnicodeEncodeError):
                return None
            return None if found is None else found[0]

        rows: list[dict[str, Any]] = []
        for place in places:
            offset = batch.offsets[place]
            try:
                judged = judge_record(
                    table=table,
                    epochs=self._epochs,
                    key=batch.keys[place],
                    value=batch.values[place],
                    timestamp_ms=batch.timestamps_ms[place],
                    relaxed=relaxed,
                )
            except BadRecordError as error:
                outcome.dead.append(dead_letter(batch, place, error.reason, error.detail))
                continue
            if judged.ignored is not None:
                outcome.ignored[judged.ignored] += 1
            elif judged.is_truncate:
                outcome.truncates.append(Truncate(table.name, batch.partition, offset, judged.row_order))
            else:
                rows += _event_rows(batch.partition, offset, judged)
        if rows:
            outcome.events.append(pa.Table.from_pylist(rows, schema=event_schema(table)))


def dead_letter(batch: RawBatch, place: int, reason: str, detail: str) -> dict[str, Any]:
    """The row of DEAD_SCHEMA that keeps one record of a batch, whole."""
    return {
        "topic": batch.topic,
        "partition": batch.partition,
        "row_offset": batch.offsets[place],
        "record_key": batch.keys[place],
        "record_value": batch.values[place],
        "reason": reason,
        "detail": detail,
        "record_ts": _UNIX_EPOCH + timedelta(milliseconds=min(max(batch.timestamps_ms[place], 0), LAST_MS)),
    }


def _event_rows(partition: int, offset: int, judged: Judged) -> Iterator[dict[str, Any]]:
    for row in judged.rows:
        yield {
            "bucket": partition,
            "row_offset": offset,
            "row_order": judged.row_order,
            "is_delete": row.is_delete,
            "is_create": row.is_create,
            "source_ts": judged.source_ts,
            **row.values,
        }


def _connect() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:")
    con.execute("SET TimeZone = 'UTC'; SET threads = 1")
    return con


def _slices(batches: Sequence[RawBatch]) -> Iterator[_Slice]:
    for batch in batches:
        for start in range(0, len(batch.values), SLICE_RECORDS):
            yield _Slice(batch, start, min(start + SLICE_RECORDS, len(batch.values)))


def _repeat(value: object, size: int) -> pa.Array:
    return pa.array([value], pa.bool_() if isinstance(value, bool) else pa.int32()).take(
        pa.array([0] * size, pa.int8())
    )


def _texts(values: Sequence[bytes | None]) -> pa.Array:
    """The values as texts; null where a value is null or not UTF-8."""
    try:
        return pa.array(values, pa.large_string())
    except pa.ArrowInvalid:
        return pa.array(
            [value if value is not None and _is_utf8(value) else None for value in values], pa.large_string()
        )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
