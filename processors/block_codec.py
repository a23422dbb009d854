"""Derived rows as Kafka records: what stage A sends to the stages of features, in blocks of columns.

    rows, by partition of their owner ─► blocks of some 200 kB ─► one Arrow IPC stream, one batch, each

The key is that of the owner of the block's first row, written as Debezium writes keys, so that all rows of a block lie
in their owners' partition. The stream's schema carries the lake's generation (R12). Every value arrives as it was: none
is turned into text on the way.

A stream is read if it is whole, has exactly the declared columns, and one batch of rows all of which are as this
program writes them; else the record is dead as a whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from processors.decode_raw import RawRecords
from processors.murmur2 import partitions_of
from processors.reasons import Reason
from processors.records import DEAD_SCHEMA, RawBatch

PLACES = "owner_places"
"""Relation (owner, key BLOB, partition INTEGER) of `place_owners`; the first column has the owner's own name."""
PART_ROWS = 50_000
"""Rows that are sent together, at most about: the next ones are derived meanwhile."""
BLOCK_BYTES = 200_000
"""Of a block in memory, at most about: a broker takes a megabyte. A single row may be larger."""
_GENERATION = b"generation"


@dataclass(frozen=True)
class BlockKind:
    """What the blocks of one topic hold.

    `schema`: of decoded rows; `bucket` is the partition, `row_offset` the Kafka offset of the block. `owner`: the
    column whose JSON is the key. `faulty`: per row whether this program would not write it.
    """

    name: str
    schema: pa.Schema
    owner: str
    faulty: Callable[[pa.Table], pa.BooleanArray]

    @cached_property
    def content(self) -> pa.Schema:
        """The columns that are sent."""
        return pa.schema([f.remove_metadata() for f in self.schema if f.name not in ("bucket", "row_offset")])


def place_owners(con: duckdb.DuckDBPyConnection, kind: BlockKind, owners: str, *, partitions: int) -> None:
    """Leaves in `owner_places` where the rows of the owners in this relation go, each with its key."""
    key = f"""encode(concat('{{"{kind.owner}":', to_json({kind.owner}), '}}'))"""
    found = con.sql(f"SELECT {kind.owner}, {key} AS key FROM (SELECT DISTINCT {kind.owner} FROM {owners})")
    rows = found.to_arrow_table()
    keys = rows["key"].combine_chunks().cast(pa.large_binary())
    con.register(PLACES, rows.append_column("partition", pa.array(partitions_of(keys, partitions))))


def placed_rows(
    con: duckdb.DuckDBPyConnection, kind: BlockKind, relation: str, *, partitions: int
) -> Iterator[pa.Table]:
    """The rows of a relation that has the columns of `kind.content`, as `encode_blocks` takes them, part by part.

    The connection is in use until the last one was taken.
    """
    place_owners(con, kind, relation, partitions=partitions)
    columns = ", ".join(f"r.{name}" for name in kind.content.names)
    placed = f"""
        SELECT {columns}, key, partition
        FROM {relation} AS r JOIN {PLACES} AS p ON r.{kind.owner} IS NOT DISTINCT FROM p.{kind.owner}
    """
    rows = con.sql(f"{placed} ORDER BY partition").to_arrow_reader(PART_ROWS)
    yield from (pa.Table.from_batches([batch]) for batch in rows)


def encode_blocks(kind: BlockKind, rows: pa.Table, *, generation: str) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and values of rows that are ordered by `partition`, one partition after another.

    Columns: those of `kind.content`, `key` of the row's owner, and `partition`, where that key goes.
    """
    schema = kind.content.with_metadata({_GENERATION: generation.encode()})
    keys, partition = rows["key"], rows["partition"].to_numpy()
    rows = rows.select(schema.names).cast(schema).combine_chunks()
    for start, end in pairwise(np.flatnonzero(np.diff(partition, prepend=-1, append=-1)).tolist()):
        blocks = list(_blocks(rows, start, end))
        yield [keys[first].as_py() for first, _ in blocks], [_written(rows, *block) for block in blocks]


def _blocks(rows: pa.Table, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that are small enough."""
    if end - start > 1 and rows.slice(start, end - start).nbytes > BLOCK_BYTES:
        middle = (start + end) // 2
        yield from _blocks(rows, start, middle)
        yield from _blocks(rows, middle, end)
    else:
        yield start, end


def _written(rows: pa.Table, start: int, end: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows.slice(start, end - start))
    return bytes(sink.getvalue())


class BlockDecoder:
    """Decodes blocks of one kind and one generation of the lake."""

    def __init__(self, kind: BlockKind, *, generation: str) -> None:
        self._kind = kind
        self._generation = generation.encode()

    def decode(self, batches: Sequence[RawBatch]) -> tuple[pa.Table, Counter[str], pa.Table]:
        """Rows (`kind.schema`), ignored records by reason, dead records (DEAD_SCHEMA).

        Blocks of another generation are ignored as `other_generation`, null values as `tombstone`.
        """
        records = RawRecords(batches)
        blocks: list[pa.Table] = []
        places: list[int] = []
        ignored: Counter[str] = Counter()
        dead: dict[int, str] = {}
        for place in range(len(records)):
            value = records.value(place)
            if value is None:
                ignored["tombstone"] += 1
                continue
            try:
                block = self._read(value)
            except (pa.ArrowException, OSError) as error:
                why = str(error).partition("\n")[0][:200]
                dead[place] = f"the value is no block of {self._kind.name}: {why}"
                continue
            if block is None:
                ignored["other_generation"] += 1
            else:
                blocks.append(block)
                places.append(place)
        rows = pa.concat_tables([self._kind.content.empty_table(), *blocks]).combine_chunks()
        of_block = np.repeat(np.arange(len(blocks)), [b.num_rows for b in blocks])
        faulty = self._kind.faulty(rows).to_numpy(zero_copy_only=False)
        if faulty.any():
            refused = np.unique(of_block[faulty])
            dead |= {places[b]: f"a row is none of {self._kind.name} as this program writes them" for b in refused}
            kept = ~np.isin(of_block, refused)
            rows, of_block = rows.filter(pa.array(kept)), of_block[kept]
        found = [records.at(place) for place in places]
        buckets = np.array([batch.partition for batch, _ in found], np.int32)[of_block]
        offsets = np.array([batch.offsets[index].as_py() for batch, index in found], np.int64)[of_block]
        rows = rows.append_column("bucket", pa.array(buckets)).append_column("row_offset", pa.array(offsets))
        letters = [records.dead_letter(place, Reason.BAD_DOCUMENT, why) for place, why in sorted(dead.items())]
        return (
            rows.select(self._kind.schema.names).cast(self._kind.schema),
            ignored,
            pa.Table.from_pylist(letters, schema=DEAD_SCHEMA),
        )

    def _read(self, value: bytes) -> pa.Table | None:
        """The rows of a block, None if it is of another generation.

        Raises ArrowException or OSError where it is not whole, names no generation or has other columns.
        """
        source = pa.BufferReader(value)
        with pa.ipc.open_stream(source) as stream:
            generation = (stream.schema.metadata or {}).get(_GENERATION)
            if generation is not None and generation != self._generation:
                return None
            if generation is None or not stream.schema.equals(self._kind.content):
                raise pa.ArrowInvalid("it has other columns, or names no generation")
            rows = stream.read_all()
        if source.tell() != len(value) or len(rows.to_batches()) != 1:
            raise pa.ArrowInvalid("it is not exactly one batch of rows")
        rows.validate(full=True)
        return rows.replace_schema_metadata()
