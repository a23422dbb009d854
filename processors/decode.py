"""From raw batches of one table to typed row events, at table speed; one bad record costs itself alone.

Each slice of records goes through one SQL statement (processors/decode_sql.py). What that does not take is
judged record by record (processors/decode_record.py): rows, a truncate, a count of ignored records, or a dead letter.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors.decode_extra import Extras, layout_of
from processors.decode_raw import UNIX_EPOCH, RawRecords, RawScan, ScanPool, only
from processors.decode_record import BadRecordError, Judged, judge_record, source_epochs
from processors.decode_sql import VALID_SQL, decode_sql, relaxed_sql, template_sql
from processors.decode_template import template_of
from processors.records import DEAD_SCHEMA, Decoded, RawBatch, Truncate, event_schema
from processors.tables import EXTRA, Table

SLICE_RECORDS = 32_768
"""Records per statement: their bytes stay near the processor's cache, and memory is used again slice after slice."""
MOST_LAYOUTS = 32
"""Each order of columns is a statement of its own, which is kept; a source has few."""
TEMPLATE_RECORDS = 4_000
"""Fewer records are not worth a template: its statement must be planned, and there may be another one next time."""
FEW_RECORDS = 40
"""Fewer records are judged one by one, which costs less than running a statement."""
_FILE = re.compile(rb'"file":"([A-Za-z][A-Za-z0-9_-]{0,99}\.([0-9]{1,10}))"')
"""The binlog file in a record as Debezium writes it: most records of a batch are of the same file."""
_WITH_SCHEMA = re.compile(rb'\s*\{\s*"schema"\s*:')
"""How a value with schema begins; a producer writes all of its values with schema, or none."""


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
        self._scans = ScanPool(threads)
        self._layouts: set[tuple[str, ...]] = set()
        self._hopeless: set[tuple[str, ...]] = set()
        """Templates that prove few records, for what the samples do not show."""

    def decode(self, table: Table, batches: Sequence[RawBatch]) -> Decoded:
        """Every record of the batches as rows, truncates, counts or dead letters; rows are in no particular order."""
        records = RawRecords(batches)
        total = _Outcome()
        slices = records.slices(SLICE_RECORDS)
        for outcome in self._scans.map(lambda scan, places: self._decode_slice(scan, table, records, places), slices):
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
            read=len(records),
        )

    def close(self) -> None:
        """Ends the threads and connections."""
        self._scans.close()

    def _decode_slice(self, scan: RawScan, table: Table, records: RawRecords, places: range) -> _Outcome:
        outcome = _Outcome()
        if len(places) < FEW_RECORDS:
            self._decode_exactly(scan, table, records, dict.fromkeys(places, True), outcome)
            return outcome
        left_over = self._decode_fast(scan, table, records, places, outcome)
        if left_over:
            self._decode_exactly(scan, table, records, left_over, outcome)
        return outcome

    def _decode_fast(
        self, scan: RawScan, table: Table, records: RawRecords, places: range, outcome: _Outcome
    ) -> dict[int, bool]:
        """Adds the events of the records that the statement takes.

        Returns the places of the others, each with whether DuckDB's JSON reader could read an object there.
        """
        values = records.values(places)
        try:
            events, left_over = self._run(scan, table, records, places, values)
        except (duckdb.InvalidInputException, UnicodeDecodeError):
            # DuckDB's message quotes the malformed text, cut off in bytes: at times amid a character.
            valid = scan.run("valid", VALID_SQL, values)["is_json"].combine_chunks()
            events, left_over = self._run(scan, table, records, places, only(values, valid))
            left_over = {place: valid[place - places.start].as_py() for place in left_over}
        outcome.events += events
        return left_over

    def _run(
        self, scan: RawScan, table: Table, records: RawRecords, places: range, values: pa.BinaryViewArray
    ) -> tuple[list[pa.Table], dict[int, bool]]:
        """The events of what the statements take: that of a template, then of the rest the general one.

        With the places of the others, as `_decode_fast` returns them.
        """
        events: list[pa.Table] = []
        has_key = pc.fill_null(pc.greater(pc.binary_length(records.keys(places)), 0), False)

        def take(rows: pa.Table) -> pa.BooleanArray:
            partitions, offsets = records.whereabouts(places)
            taken = pc.and_(rows["taken"].combine_chunks(), has_key)
            rows = rows.append_column("bucket", partitions).append_column("row_offset", offsets)
            events.extend(_event_tables(table, rows if pc.all(taken).as_py() else rows.filter(taken)))
            return taken

        left = pa.repeat(True, len(places))
        alike = self._run_template(scan, table, values)
        if alike is not None:
            left = pc.invert(take(alike))
            if not pc.any(left).as_py():
                return events, {}
            values = only(values, left)
        rows = self._run_general(scan, table, values)
        others = pc.indices_nonzero(pc.and_not(left, take(rows)))
        readable = rows["is_json"].take(others).to_pylist()
        return events, {places.start + i: r for i, r in zip(others.to_pylist(), readable, strict=True)}

    def _run_template(self, scan: RawScan, table: Table, values: pa.BinaryViewArray) -> pa.Table | None:
        """The rows of a template's statement, None where there is no template or it would not pay."""
        template = template_of(table, values, self._epochs) if len(values) >= TEMPLATE_RECORDS else None
        if template is None:
            return None
        texts = "escaped" if template.escaped else "plain"
        what = (table.name, *template.layout, "with", texts, "texts", *template.holes)
        if what in self._hopeless or (what not in self._layouts and len(self._layouts) >= MOST_LAYOUTS):
            return None
        self._layouts.add(what)
        sql = template_sql(table, layout=template.layout, holes=template.holes, escaped=template.escaped)
        rows = scan.run(" ".join(what), sql, values, parameters=template.parameters)
        if pc.sum(rows["taken"]).as_py() < len(values) // 2:
            self._hopeless.add(what)
        return rows

    def _run_general(self, scan: RawScan, table: Table, values: pa.BinaryViewArray) -> pa.Table:
        place = pc.index(values.is_valid(), True).as_py()
        first = values[max(place, 0)].as_py() or b""
        found = _FILE.search(first)
        likely_file = (found[1].decode(), int(found[2])) if found else None
        in_payload = bool(_WITH_SCHEMA.match(first))
        layout = layout_of(table, first)
        if len(self._layouts) < MOST_LAYOUTS:
            self._layouts.add((table.name, *layout))
        elif (table.name, *layout) not in self._layouts:
            layout = table.column_names
        name = f"{table.name} {'in payload' if in_payload else 'bare'} as {' '.join(layout)}"
        sql = decode_sql(table, self._epochs, in_payload=in_payload, layout=layout)
        return scan.run(name, sql, values, likely_file=likely_file)

    def _decode_exactly(
        self, scan: RawScan, table: Table, records: RawRecords, places: Mapping[int, bool], outcome: _Outcome
    ) -> None:
        """Judges single records. `places` says of each whether DuckDB's JSON reader may read it."""
        sql = relaxed_sql(table)
        extras = Extras(scan, table)

        def relaxed(text: str) -> str | None:
            extras.must_look = True  # what is rewritten holds declared columns only
            try:
                one = pa.array([text.encode()], pa.binary_view())
                rewritten = scan.run(f"{table.name}, relaxed", sql, one)["value"][0].as_py()
            except (duckdb.Error, UnicodeEncodeError):
                return None
            return None if rewritten is None else str(rewritten)

        def unreadable(text: str) -> None:
            return None

        rows: list[dict[str, Any]] = []
        for place, is_readable in places.items():
            batch, index = records.at(place)
            value = batch.values[index].as_py()
            extras.must_look = False
            try:
                judged = judge_record(
                    table=table,
                    epochs=self._epochs,
                    key=batch.keys[index].as_py(),
                    value=value,
                    timestamp_ms=batch.timestamps_ms[index].as_py(),
                    relaxed=relaxed if is_readable else unreadable,
                )
            except BadRecordError as error:
                outcome.dead.append(records.dead_letter(place, error.reason, error.detail))
                continue
            offset = batch.offsets[index].as_py()
            if judged.ignored is not None:
                outcome.ignored[judged.ignored] += 1
            elif judged.is_truncate:
                source_ts_ms = (judged.source_ts - UNIX_EPOCH) // timedelta(milliseconds=1)
                outcome.truncates.append(
                    Truncate(table.name, batch.partition, offset, judged.row_order, source_ts_ms=source_ts_ms)
                )
            else:
                for row, event in zip(judged.rows, _event_rows(batch.partition, offset, judged), strict=True):
                    extras.look_later(event, row, value)
                    rows.append(event)
        extras.look()
        if rows:
            outcome.events.append(pa.Table.from_pylist(rows, schema=event_schema(table)))


def _event_tables(table: Table, rows: pa.Table) -> Iterator[pa.Table]:
    """The statement's rows as events; an update that changed the key gives a delete of the old key besides."""
    schema = event_schema(table)
    changed = rows["key_changed"]
    if pc.any(changed).as_py():
        old = rows.filter(changed)
        kept = ("bucket", "row_offset", "row_order", "source_ts")
        columns = {name: old[name] for name in kept} | {name: old[f"old_{name}"] for name in table.key}
        columns |= {"is_delete": pa.repeat(True, old.num_rows), "is_create": pa.repeat(False, old.num_rows)}
        nothing = {f.name: pa.nulls(old.num_rows, f.type) for f in schema}
        yield pa.table({f.name: columns.get(f.name, nothing[f.name]) for f in schema}).cast(schema)
        place = rows.schema.get_field_index("is_create")
        rows = rows.set_column(place, "is_create", pc.or_(rows["is_create"], changed))
    yield rows.select(schema.names).cast(schema)


def _event_rows(partition: int, offset: int, judged: Judged) -> Iterator[dict[str, Any]]:
    for row in judged.rows:
        yield {
            "bucket": partition,
            "row_offset": offset,
            "row_order": judged.row_order,
            "is_delete": row.is_delete,
            "is_create": row.is_create,
            "source_ts": judged.source_ts,
            EXTRA: None,
            **row.values,
        }
