"""From one fetched partition of aiokafka to one `RawBatch`, without an object per record in between.

aiokafka keeps what a fetch brought as undecoded record batches until somebody iterates over it, and then makes an
object per record, which costs several times what the rest of the transport does. `take_blocks` asks aiokafka for what
it knows of each record batch (checksum, transaction, offsets); `read_taken` then reads the records themselves as
columns (connectors/kafka_records.py). For that the bytes of a fetch must be kept: `keep_bytes`.

The first belongs to aiokafka's event loop, since it moves the consumer's position, and looks at headers only. The
second is nearly all of the work and belongs to another thread: the loop also sends the heartbeats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException, UnsupportedVersionError
from aiokafka.record.memory_records import MemoryRecords

from connectors.kafka_records import HEADER_BYTES, RecordBlock, RecordColumns, read_blocks
from processors.records import COLUMNS_BYTES, RawBatch

_LENGTH_FROM, _LENGTH_TO = 8, 12
"""Where a record batch says how many bytes follow this very field."""
_COUNT_FROM = 57
_FORMAT_V2 = 2
_LOG_APPEND_TIME = 1
TOGETHER_BYTES = 1_000_000
"""So much of a topic is read by one call; of more, each partition has memory of its own."""


class KeptRecords:
    """The record batches of one fetch and partition as aiokafka's fetcher holds them, and their bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        records = MemoryRecords(data)
        self.size_in_bytes, self.has_next, self.next_batch = (
            records.size_in_bytes,
            records.has_next,
            records.next_batch,
        )


def keep_bytes() -> None:
    """From now on aiokafka's fetchers keep the bytes that they fetch, in the objects that it makes of them anyway."""
    aiokafka.consumer.fetcher.MemoryRecords = KeptRecords


@dataclass(frozen=True)
class TakenBlocks:
    """The record batches of one partition that were taken, from position `start_offset` on, records still packed.

    `behind`: how many offsets the broker has beyond `next_offset`, as far as the client knows.
    """

    topic: str
    partition: int
    start_offset: int
    next_offset: int
    blocks: list[RecordBlock]
    behind: int

    @property
    def size_bytes(self) -> int:
        """As they were fetched."""
        return sum(len(block.payload) for block in self.blocks)

    @property
    def records(self) -> int:
        """How many they are."""
        return sum(block.count for block in self.blocks)


def read_taken(taken: Sequence[TakenBlocks]) -> list[RawBatch]:
    """The records of each, in order. Raises CorruptRecordException when a record batch is not exactly its records.

    Little of one topic is read together, since what a call costs does not depend on it. Its values share their memory
    then, so never those of two topics: what of one waits for its stage would hold memory that nobody counts.
    """
    topics: dict[str, list[TakenBlocks]] = {}
    for one in taken:
        topics.setdefault(one.topic, []).append(one)
    read: dict[tuple[str, int], RawBatch] = {}
    for together in topics.values():
        little = sum(one.size_bytes for one in together) <= TOGETHER_BYTES
        for group in [together] if little else [[one] for one in together]:
            read |= {(batch.topic, batch.partition): batch for batch in _read_group(group)}
    return [read[one.topic, one.partition] for one in taken]


def _read_group(group: Sequence[TakenBlocks]) -> Iterator[RawBatch]:
    columns = read_blocks([block for one in group for block in one.blocks])
    first = 0
    for one in group:
        yield _batch_of(one, columns.slice(first, one.records))
        first += one.records


def _batch_of(taken: TakenBlocks, read: RecordColumns) -> RawBatch:
    batch = RawBatch(
        taken.topic,
        taken.partition,
        taken.start_offset,
        taken.next_offset,
        read.offsets,
        read.timestamps_ms,
        read.keys,
        read.values,
        size_bytes=int(read.sizes.sum()) + COLUMNS_BYTES * len(read.sizes),
        behind=taken.behind,
    )
    # A record batch is fetched whole: the first one may begin before the position that was asked for.
    return batch.from_offset(taken.start_offset)


def take_blocks(result: FetchResult, *, check_crcs: bool) -> TakenBlocks | None:
    """Consumes all that `result` holds and advances the consumer's position past it.

    The position after it counts transaction markers and aborted records, which give no record: a batch without
    records but with `next_offset` above `start_offset` says just that. None: the result is stale (the consumer's
    position was changed since the fetch, or the partition is not assigned any more) or moved nothing.

    Only committed records are kept, by the rule of KIP-98: a transactional record batch counts unless its producer has
    an aborted transaction open at that offset; an abort marker closes it.

    Raises CorruptRecordException when a record batch is damaged, its checksum being looked at if `check_crcs` is set,
    and UnsupportedVersionError for message formats before v2 (Kafka 0.11), which Kafka 4 does not know either.
    """
    source = result._partition_records
    if source is None or not result.check_assignment(result._topic_partition):
        return None
    topic, partition = result._topic_partition
    start = position = source.next_fetch_offset
    blocks: list[RecordBlock] = []
    fetched: KeptRecords = source._records
    at = 0
    while fetched.has_next():
        batch = fetched.next_batch()
        end = at + _LENGTH_TO + int.from_bytes(fetched.data[at + _LENGTH_FROM : at + _LENGTH_TO])
        if at and batch.base_offset < position:
            raise CorruptRecordException(
                f"{topic}-{partition}: the batch at {batch.base_offset} overlaps one before it"
            )
        if check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{topic}-{partition}: wrong checksum in the batch at {batch.base_offset}")
        if getattr(batch, "magic", 0) != _FORMAT_V2:
            raise UnsupportedVersionError(f"{topic}-{partition}: records in a message format before Kafka 0.11")
        aborted = False
        if batch.producer_id is not None:
            source._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in source._aborted_producers
        count = int.from_bytes(fetched.data[at + _COUNT_FROM : at + HEADER_BYTES])
        if count and not aborted and not batch.is_control_batch:
            is_appended = batch.timestamp_type == _LOG_APPEND_TIME
            blocks.append(
                RecordBlock(
                    payload=fetched.data[at + HEADER_BYTES : end],
                    attributes=batch.attributes,
                    count=count,
                    base_offset=batch.base_offset,
                    next_offset=batch.next_offset,
                    first_ms=batch.first_timestamp,
                    log_append_ms=batch.max_timestamp if is_appended else None,
                )
            )
        position = batch.next_offset
        at = end
    source.next_fetch_offset = position
    result._update_position()
    result._partition_records = None
    if position == start:
        return None
    end = result._assignment.state_value(result._topic_partition).highwater or position
    return TakenBlocks(topic, partition, start, position, blocks, behind=max(end - position, 0))
