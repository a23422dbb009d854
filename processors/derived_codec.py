"""What decoders of derived records share: documents and charged lines, that stage A sends to the stages of features.

A value is one JSON object that begins with the lake's generation. Reading accepts exactly what this program writes:
what the decoded columns would be written with must be, byte for byte, what was read, so nothing is rounded or guessed.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors.decode_raw import RAW, RawRecords, RawScan, ScanPool
from processors.reasons import Reason
from processors.records import DEAD_SCHEMA, RawBatch

SLICE_RECORDS = 32_768
Encoded = Generator[tuple[list[bytes], list[bytes]], None, None]
"""Keys and values, slice by slice; to be closed by who does not take the last one."""


def sql_literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def generation_sql(generation: str) -> str:
    """SQL literal of how a value begins."""
    return sql_literal('{"generation":' + json.dumps(generation, ensure_ascii=False))


def encode_records(con: duckdb.DuckDBPyConnection, relation: str, *, key: str, value: str) -> Encoded:
    """Keys and values of the rows of a relation; `key`, `value`: arguments of a concat over its columns.

    They come in slices of at most SLICE_RECORDS, the next of which is made while one is used; the connection is in use
    until the last one was taken, or the rest is closed.
    """
    reader = con.sql(f"""
        SELECT encode(concat({key})) AS key, encode(concat({value})) AS value FROM {relation}
    """).to_arrow_reader(SLICE_RECORDS)
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as ahead:
        following = ahead.submit(next, reader, None)
        while (records := following.result()) is not None:
            following = ahead.submit(next, reader, None)
            yield records["key"].to_pylist(), records["value"].to_pylist()


def extracted_sql(columns: Mapping[str, Any]) -> str:
    """The values in RAW with these columns of theirs: names and types as DuckDB's json_transform takes them.

    `source_ts` is called `source_us`, which it is. All are null for what cannot be read so.
    """
    names = ", ".join(f"j.{name} AS {'source_us' if name == 'source_ts' else name}" for name in columns)
    structure = sql_literal(json.dumps(columns))
    return f"SELECT value, {names} FROM (SELECT value, TRY(json_transform(value, {structure})) AS j FROM {RAW})"


class DerivedDecoder(ABC):
    """Decodes records of one generation of the lake. Used by one thread at a time; `close` releases its connections.

    `threads`: slices that are decoded side by side.
    """

    name: ClassVar[str]
    schema: ClassVar[pa.Schema]
    complaint: ClassVar[str]

    def __init__(self, *, generation: str, threads: int = 1) -> None:
        self._scans = ScanPool(threads)
        self._sql = self.decode_sql(generation)

    @staticmethod
    @abstractmethod
    def decode_sql(generation: str) -> str:
        """The columns of values in RAW, `is_foreign` (of another generation) and `taken` (exactly as written)."""

    @abstractmethod
    def finish(self, rows: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        """The rows with columns that are made outside of SQL, and which of them are exact; None: all."""

    def close(self) -> None:
        """Ends the threads and connections."""
        self._scans.close()

    def decode(self, batches: Sequence[RawBatch]) -> tuple[pa.Table, Counter[str], pa.Table]:
        """Rows (`schema`), ignored records by reason, dead records (DEAD_SCHEMA).

        Records of another generation are ignored as `other_generation` (R12), null values as `tombstone`.
        """
        records = RawRecords(batches)
        tables: list[pa.Table] = []
        ignored: Counter[str] = Counter()
        dead: list[dict[str, Any]] = []
        slices = records.slices(SLICE_RECORDS)
        for outcome in self._scans.map(lambda scan, places: self._decode_slice(scan, records, places), slices):
            tables.append(outcome.rows)
            ignored.update(outcome.ignored)
            dead += outcome.dead
        found = pa.concat_tables(tables) if tables else self.schema.empty_table()
        return found, ignored, pa.Table.from_pylist(dead, schema=DEAD_SCHEMA)

    def _decode_slice(self, scan: RawScan, records: RawRecords, places: range) -> "_Outcome":
        rows = scan.run(self.name, self._sql, records.values(places))
        partitions, offsets = records.whereabouts(places)
        rows = rows.append_column("bucket", partitions).append_column("row_offset", offsets)
        rows, exact = self.finish(rows)
        taken = rows["taken"].combine_chunks()
        taken = taken if exact is None else pc.and_(taken, exact)
        ignored: Counter[str] = Counter()
        dead: list[dict[str, Any]] = []
        for index in pc.indices_nonzero(pc.invert(taken)).to_pylist():
            if records.value(places.start + index) is None:
                ignored["tombstone"] += 1
            elif rows["is_foreign"][index].as_py():
                ignored["other_generation"] += 1
            else:
                dead.append(records.dead_letter(places.start + index, Reason.BAD_DOCUMENT, self.complaint))
        if not pc.all(taken).as_py():
            rows = rows.filter(taken)
        return _Outcome(self.select(rows).cast(self.schema), ignored, dead)

    def select(self, rows: pa.Table) -> pa.Table:
        """The columns of the schema, of rows that are taken."""
        return rows.select(self.schema.names)


class _Outcome(NamedTuple):
    rows: pa.Table
    ignored: Counter[str]
    dead: list[dict[str, Any]]
