"""Raw records in front of DuckDB and of the dead letters: what all decoders share."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from processors.records import RawBatch

RAW: Final = "raw"
"""The relation that statements of RawScan read: `value` VARCHAR, null for a null value or no UTF-8; and per run the
constants `likely_file` VARCHAR and `likely_number` BIGINT: a binlog file that most records name, or null."""
T = TypeVar("T")
LAST_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in milliseconds since 1970: a later time is not believed."""
UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def sql_literal(text: str) -> str:
    """The text as DuckDB's SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


class RawRecords:
    """The records of several batches as one sequence; a record is named by its place in it."""

    def __init__(self, batches: Sequence[RawBatch]) -> None:
        self._batches = [batch for batch in batches if len(batch)]
        self._ends = list(accumulate(len(batch) for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def slices(self, size: int) -> list[range]:
        """The places in runs of at most `size`, of nearly equal length: no small rest is left at the end."""
        parts = -(-len(self) // size)
        bounds = [len(self) * part // parts for part in range(parts + 1)] if parts else []
        return [range(start, stop) for start, stop in pairwise(bounds)]

    def at(self, place: int) -> tuple[RawBatch, int]:
        """The batch of a record, and its index there."""
        number = bisect_right(self._ends, place)
        return self._batches[number], place - (self._ends[number] - len(self._batches[number]))

    def value(self, place: int) -> bytes | None:
        """The value of one record."""
        batch, index = self.at(place)
        value: bytes | None = batch.values[index].as_py()
        return value

    def values(self, places: range) -> pa.BinaryViewArray:
        """The values of consecutive records, which are not copied."""
        return self._column(places, lambda batch: batch.values)

    def keys(self, places: range) -> pa.LargeBinaryArray:
        """The keys of consecutive records."""
        return self._column(places, lambda batch: batch.keys)

    def whereabouts(self, places: range) -> tuple[pa.Array, pa.Array]:
        """(partition INTEGER, offset BIGINT) of consecutive records."""
        partitions = [pa.repeat(pa.scalar(b.partition, pa.int32()), size) for b, _, size in self._pieces(places)]
        return pa.concat_arrays(partitions), self._column(places, lambda batch: batch.offsets)

    def _column(self, places: range, column: Callable[[RawBatch], pa.Array]) -> pa.Array:
        return pa.concat_arrays([column(batch).slice(index, size) for batch, index, size in self._pieces(places)])

    def _pieces(self, places: range) -> Iterator[tuple[RawBatch, int, int]]:
        """The batches that hold consecutive records: each with the first one's index and their number."""
        place = places.start
        while place < places.stop:
            batch, index = self.at(place)
            size = min(len(batch) - index, places.stop - place)
            yield batch, index, size
            place += size

    def dead_letter(self, place: int, reason: str, detail: str) -> dict[str, Any]:
        """The row of DEAD_SCHEMA that keeps the record, whole."""
        batch, index = self.at(place)
        return dead_letter(batch, index, reason, detail)


@dataclass
class _Stream:
    """What a connection sees as RAW: each scan reads the table that is set at that moment."""

    table: pa.Table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.table.schema.__arrow_c_schema__()


class RawScan:
    """A connection whose statements over RAW are planned once and then run over slice after slice.

    Planning costs tens of milliseconds, running a small slice two. One thread at a time; `close` ends the connection.
    """

    def __init__(self) -> None:
        self.con = duckdb.connect(":memory:")
        self.con.execute("SET TimeZone = 'UTC'; SET threads = 1")
        self._nothing = _raw_table(pa.array([], pa.binary_view()), None)
        self._stream = _Stream(self._nothing)
        self.con.register(RAW, self._stream)
        self._prepared: set[str] = set()

    def run(
        self,
        name: str,
        sql: str,
        values: pa.BinaryViewArray,
        *,
        likely_file: tuple[str, int] | None = None,
        parameters: Sequence[str | int] = (),
    ) -> pa.Table:
        """The statement's rows over these values. `name` stands for the statement: the same name, the same SQL."""
        if name not in self._prepared:
            self.con.execute(f'PREPARE "{name}" AS {sql}')
            self._prepared.add(name)
        self._stream.table = _raw_table(values, likely_file)
        given = ", ".join(str(p) if isinstance(p, int) else sql_literal(p) for p in parameters)
        try:
            return self.con.sql(f'EXECUTE "{name}"{f"({given})" if given else ""}').to_arrow_table()
        finally:
            self._stream.table = self._nothing

    def close(self) -> None:
        """Closes the connection."""
        self.con.close()


class ScanPool:
    """Scans for slices that are decoded side by side. `close` ends the threads and connections."""

    def __init__(self, threads: int) -> None:
        self._scans = [RawScan() for _ in range(max(threads, 1))]
        self._idle: SimpleQueue[RawScan] = SimpleQueue()
        for scan in self._scans:
            self._idle.put(scan)
        self._pool = ThreadPoolExecutor(len(self._scans), thread_name_prefix="decode") if threads > 1 else None

    def map(self, decode: Callable[[RawScan, range], T], slices: Sequence[range]) -> Iterator[T]:
        """The outcomes of the slices in their order; each call has a scan for itself."""

        def with_scan(places: range) -> T:
            scan = self._idle.get()
            try:
                return decode(scan, places)
            finally:
                self._idle.put(scan)

        return map(with_scan, slices) if self._pool is None or len(slices) < 2 else self._pool.map(with_scan, slices)

    def close(self) -> None:
        """Ends the threads, then the connections."""
        if self._pool is not None:
            self._pool.shutdown()
        for scan in self._scans:
            scan.close()


def texts(values: pa.BinaryViewArray) -> pa.StringViewArray:
    """The values as texts; null where a value is null or not UTF-8."""
    try:
        return values.cast(pa.string_view())
    except pa.ArrowInvalid:
        kept = [value if value is not None and is_utf8(value) else None for value in values.to_pylist()]
        return pa.array(kept, pa.string_view())


def only(values: pa.BinaryViewArray, kept: pa.BooleanArray) -> pa.BinaryViewArray:
    """The values, null where `kept` is not true."""
    _, *buffers = values.buffers()
    bits = np.zeros(values.offset + len(values), np.bool_)
    bits[values.offset :] = pc.and_(values.is_valid(), pc.fill_null(kept, False)).to_numpy(zero_copy_only=False)
    validity = pa.py_buffer(np.packbits(bits, bitorder="little"))
    return pa.Array.from_buffers(values.type, len(values), [validity, *buffers], offset=values.offset)


def is_utf8(value: bytes) -> bool:
    """Whether the bytes are a UTF-8 text."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def kafka_time(timestamp_ms: int) -> datetime:
    """A record's Kafka timestamp, UTC; one that is unset (negative) or absurd becomes the nearest that exists."""
    return UNIX_EPOCH + timedelta(milliseconds=min(max(timestamp_ms, 0), LAST_MS))


def dead_letter(batch: RawBatch, index: int, reason: str, detail: str) -> dict[str, Any]:
    """The row of DEAD_SCHEMA that keeps one record of a batch, whole."""
    return {
        "topic": batch.topic,
        "partition": batch.partition,
        "row_offset": batch.offsets[index].as_py(),
        "record_key": batch.keys[index].as_py(),
        "record_value": batch.values[index].as_py(),
        "reason": reason,
        "detail": detail,
        "record_ts": kafka_time(batch.timestamps_ms[index].as_py()),
    }


def _raw_table(values: pa.BinaryViewArray, likely_file: tuple[str, int] | None) -> pa.Table:
    file, number = (None, None) if likely_file is None else likely_file
    return pa.table(
        {
            "value": texts(values),
            "likely_file": pa.repeat(pa.scalar(file, pa.string()), len(values)),
            "likely_number": pa.repeat(pa.scalar(number, pa.int64()), len(values)),
        }
    )
