"""Raw records in front of DuckDB and of the dead letters: what all decoders share."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, pairwise
from typing import Any, Final

import duckdb
import pyarrow as pa

from processors.records import RawBatch

RAW: Final = "raw"
"""The relation that statements of RawScan read: `value` VARCHAR, null for a null value or no UTF-8; and per run the
constants `likely_file` VARCHAR and `likely_number` BIGINT: a binlog file that most records name, or null."""
LAST_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in milliseconds since 1970: a later time is not believed."""
UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RawRecords:
    """The records of several batches as one sequence; a record is named by its place in it."""

    def __init__(self, batches: Sequence[RawBatch]) -> None:
        self._batches = [batch for batch in batches if len(batch.values)]
        self._ends = list(accumulate(len(batch.values) for batch in self._batches))
        self.values: list[bytes | None] = list(chain.from_iterable(batch.values for batch in self._batches))
        self.keys: list[bytes | None] = list(chain.from_iterable(batch.keys for batch in self._batches))

    def __len__(self) -> int:
        return len(self.values)

    def slices(self, size: int) -> Iterator[range]:
        """The places in runs of at most `size`, of nearly equal length: no small rest is left at the end."""
        parts = -(-len(self) // size)
        bounds = [len(self) * part // parts for part in range(parts + 1)] if parts else []
        return (range(start, stop) for start, stop in pairwise(bounds))

    def at(self, place: int) -> tuple[RawBatch, int]:
        """The batch of a record, and its index there."""
        number = bisect_right(self._ends, place)
        return self._batches[number], place - (self._ends[number] - len(self._batches[number].values))

    def whereabouts(self, places: range) -> tuple[pa.Array, pa.Array]:
        """(partition INTEGER, offset BIGINT) of consecutive records."""
        partitions: list[pa.Array] = []
        offsets: list[pa.Array] = []
        place = places.start
        while place < places.stop:
            batch, index = self.at(place)
            size = min(len(batch.values) - index, places.stop - place)
            partitions.append(pa.repeat(pa.scalar(batch.partition, pa.int32()), size))
            offsets.append(pa.array(batch.offsets[index : index + size], pa.int64()))
            place += size
        return pa.concat_arrays(partitions), pa.concat_arrays(offsets)

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
        self._stream = _Stream(_raw_table([], None))
        self.con.register(RAW, self._stream)
        self._prepared: set[str] = set()

    def run(
        self, name: str, sql: str, values: Sequence[bytes | None], *, likely_file: tuple[str, int] | None = None
    ) -> pa.Table:
        """The statement's rows over these values. `name` stands for the statement: the same name, the same SQL."""
        if name not in self._prepared:
            self.con.execute(f'PREPARE "{name}" AS {sql}')
            self._prepared.add(name)
        self._stream.table = _raw_table(values, likely_file)
        try:
            return self.con.sql(f'EXECUTE "{name}"').to_arrow_table()
        finally:
            self._stream.table = _raw_table([], None)

    def close(self) -> None:
        """Closes the connection."""
        self.con.close()


def texts(values: Sequence[bytes | None]) -> pa.Array:
    """The values as texts; null where a value is null or not UTF-8."""
    try:
        return pa.array(values, pa.large_string())
    except pa.ArrowInvalid:
        kept = [value if value is not None and is_utf8(value) else None for value in values]
        return pa.array(kept, pa.large_string())


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
        "row_offset": batch.offsets[index],
        "record_key": batch.keys[index],
        "record_value": batch.values[index],
        "reason": reason,
        "detail": detail,
        "record_ts": kafka_time(batch.timestamps_ms[index]),
    }


def _raw_table(values: Sequence[bytes | None], likely_file: tuple[str, int] | None) -> pa.Table:
    file, number = (None, None) if likely_file is None else likely_file
    return pa.table(
        {
            "value": texts(values),
            "likely_file": pa.repeat(pa.scalar(file, pa.string()), len(values)),
            "likely_number": pa.repeat(pa.scalar(number, pa.int64()), len(values)),
        }
    )
