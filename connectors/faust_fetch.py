"""From one fetched partition of aiokafka to one `RawBatch`, without an object per record in between.

aiokafka keeps what a fetch brought as undecoded record batches until somebody iterates over it, and then makes a
`ConsumerRecord` of eleven fields per record. `take_batch` reads the record batches directly (their iterator is
compiled) and keeps four columns, which costs a third; the bytes of a record are the objects that aiokafka gives.
"""

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException

from processors.records import RawBatch


def take_batch(result: FetchResult, *, check_crcs: bool) -> RawBatch | None:
    """Consumes all that `result` holds and advances the consumer's position past it.

    The position after it counts transaction markers and aborted records, which give no record: a batch without
    records but with `next_offset` above `start_offset` says just that. None: the result is stale (the consumer's
    position was changed since the fetch, or the partition is not assigned any more) or moved nothing.

    Only committed records are kept, by the rule of KIP-98: a transactional record batch counts unless its producer has
    an aborted transaction open at that offset; an abort marker closes it.

    Raises CorruptRecordException when a checksum is wrong and `check_crcs` is set.
    """
    source = result._partition_records
    if source is None or not result.check_assignment(result._topic_partition):
        return None
    topic, partition = result._topic_partition
    start = position = source.next_fetch_offset
    offsets: list[int] = []
    timestamps: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    fetched = source._records
    while fetched.has_next():
        batch = fetched.next_batch()
        if check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{topic}-{partition}: wrong checksum in the batch at {batch.base_offset}")
        aborted = False
        if batch.producer_id is not None:
            source._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in source._aborted_producers
        if not aborted and not batch.is_control_batch:
            # A record batch is fetched whole: the first one may begin before the position that was asked for.
            rows = [row for row in batch if row.offset >= position]
            offsets += [row.offset for row in rows]
            timestamps += [row.timestamp for row in rows]
            keys += [row.key for row in rows]
            values += [row.value for row in rows]
        position = batch.next_offset
    source.next_fetch_offset = position
    result._update_position()
    result._partition_records = None
    if position == start:
        return None
    return RawBatch(topic, partition, start, position, offsets, timestamps, keys, values)
