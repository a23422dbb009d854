"""What passes between the transport, the decoder and the stages: tables of records, not records."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from processors.order import ORDER_SQL_TYPE
from processors.tables import EXTRA, Table

ORDER_ARROW_TYPE = pa.decimal128(38, 0)
TIMESTAMP = pa.timestamp("us", tz="UTC")
assert ORDER_SQL_TYPE == "DECIMAL(38,0)"

COLUMNS_BYTES = 40
"""Of a record beside its key and value: offset, time, the key's end, the value's view."""


@dataclass(frozen=True)
class RawBatch:
    """Records of one topic-partition exactly as fetched, in offset order.

    The batch covers the offsets [`start_offset`, `next_offset`): `start_offset` is the consumer's position before the
    fetch and `next_offset` its position after it. Offsets in between that have no record (transaction markers, aborted
    records) are gaps by right; a batch without records only moves the position. The four columns have equal length.
    `behind`: how many offsets the broker had beyond `next_offset` when it was fetched.
    `size_bytes`: the memory that its columns hold, COLUMNS_BYTES of each record among them.
    """

    topic: str
    partition: int
    start_offset: int
    next_offset: int
    offsets: pa.Int64Array
    timestamps_ms: pa.Int64Array
    keys: pa.LargeBinaryArray
    values: pa.BinaryViewArray
    size_bytes: int
    behind: int = 0

    def __len__(self) -> int:
        return len(self.offsets)

    def from_offset(self, offset: int) -> "RawBatch":
        """The records at or beyond an offset."""
        first = bisect_left(self.offsets, offset, key=lambda o: o.as_py())
        if first == 0:
            return self
        columns = [column[first:] for column in (self.offsets, self.timestamps_ms, self.keys, self.values)]
        offsets, timestamps, keys, values = columns
        return replace(self, offsets=offsets, timestamps_ms=timestamps, keys=keys, values=values)

    @classmethod
    def of(
        cls,
        topic: str,
        partition: int,
        records: Sequence[tuple[bytes | None, bytes | None]],
        *,
        start_offset: int = 0,
        timestamp_ms: int = 0,
    ) -> "RawBatch":
        """Consecutive records (key, value) of one time."""
        size = len(records)
        return cls(
            topic,
            partition,
            start_offset,
            start_offset + size,
            pa.array(range(start_offset, start_offset + size), pa.int64()),
            pa.array([timestamp_ms] * size, pa.int64()),
            pa.array([key for key, _ in records], pa.large_binary()),
            pa.array([value for _, value in records], pa.binary_view()),
            size_bytes=sum(len(key or b"") + len(value or b"") + COLUMNS_BYTES for key, value in records),
        )


@dataclass(frozen=True)
class Truncate:
    """A `t` event: every row of `table` ordered below `row_order` is gone (R4)."""

    table: str
    partition: int
    offset: int
    row_order: int
    source_ts_ms: int = 0  # when the source committed it, UTC


@dataclass(frozen=True)
class Decoded:
    """The outcome of decoding some batches of one table: read = len(events' records) + ignored + dead + truncates.

    `events` has the columns of `event_schema(table)`, one row per row event; an update that changes the primary key is
    two rows (delete of the before key, create of the after key) and counts once in `read`.
    """

    table: Table
    events: pa.Table
    dead: pa.Table
    truncates: tuple[Truncate, ...]
    ignored: Counter[str] = field(default_factory=Counter)
    read: int = 0


_ARROW = {
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "VARCHAR": pa.string(),
    "DECIMAL(20,10)": pa.decimal128(20, 10),
    "DATE": pa.date32(),
}


def arrow_type(duckdb_type: str) -> pa.DataType:
    """The Arrow type of a declared column's DuckDB type."""
    return _ARROW[duckdb_type]


def event_schema(table: Table) -> pa.Schema:
    """The schema of decoded row events: bookkeeping columns, then the table's own.

    `is_delete`: the row is gone (only its key columns, and what the before image holds, are filled).
    `is_create`: op `c` or `r`, or the after half of an update that changed the primary key.
    `source_ts`: when the source committed the change, UTC.
    `extra`, at the end: JSON object of the row's columns that are not declared and not null, else null; personal data
    where the table has any. Null for a delete.
    """
    return pa.schema(
        [
            ("bucket", pa.int32()),
            ("row_offset", pa.int64()),
            ("row_order", ORDER_ARROW_TYPE),
            ("is_delete", pa.bool_()),
            ("is_create", pa.bool_()),
            ("source_ts", TIMESTAMP),
            *((c.name, arrow_type(c.duckdb_type)) for c in table.columns),
            (EXTRA, pa.string()),
        ]
    )


DEAD_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("row_offset", pa.int64()),
        ("record_key", pa.binary()),
        ("record_value", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("record_ts", TIMESTAMP),
    ]
)
"""One bad record: where it stood, what it held, why it was refused (`reason` is a short code, `detail` a sentence)."""
