"""Fetched record batches as columns: against aiokafka's own reader, damaged, transactional, in every compression."""

import asyncio
import random
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.errors import CorruptRecordException, UnsupportedVersionError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from connectors import faust_fetch, kafka_records
from connectors.faust_fetch import KeptRecords, TakenBlocks, read_taken, take_blocks
from connectors.kafka_records import HEADER_BYTES
from processors.records import COLUMNS_BYTES, RawBatch

PLACE = TopicPartition("aurora.trs.invoices", 3)
Row = tuple[int, int, bytes | None, bytes | None]
COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def record_batch(
    rows: Sequence[Row], *, compression: int = 3, producer: int = -1, transactional: bool = False, base: int = 0
) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=transactional,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for offset, timestamp, key, value in rows:
        builder.append(offset - base, timestamp=timestamp, key=key, value=value, headers=[("h", b"x"), ("n", None)])
    return resealed(bytearray(builder.build()), base_offset=base)


def resealed(batch: bytearray, *, base_offset: int | None = None) -> bytes:
    """The batch with a checksum that fits what was changed in it; the base offset is not covered by it."""
    if base_offset is not None:
        struct.pack_into(">q", batch, 0, base_offset)
    struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


async def fetched(
    data: bytes, *, position: int, aborted: Sequence[tuple[int, int]] = (), place: TopicPartition = PLACE
) -> FetchResult:
    assignment = Assignment([place])
    assignment.state_value(place).reset_to(position)
    records = PartitionRecords(place, KeptRecords(data), aborted, position, None, None, True, READ_COMMITTED)
    return FetchResult(place, assignment=assignment, partition_records=records, backoff=0)


def taken(data: bytes, *, position: int, aborted: Sequence[tuple[int, int]] = ()) -> TakenBlocks:
    async def take() -> TakenBlocks | None:
        result = await fetched(data, position=position, aborted=aborted)
        blocks = take_blocks(result, check_crcs=True)
        assert blocks is None or result._assignment.state_value(PLACE).position == blocks.next_offset
        return blocks

    blocks = asyncio.run(take())
    assert blocks is not None
    return blocks


def take(data: bytes, *, position: int = 0, aborted: Sequence[tuple[int, int]] = ()) -> RawBatch:
    return read_taken([taken(data, position=position, aborted=aborted)])[0]


def rows_of(batch: RawBatch) -> list[Row]:
    columns = (batch.offsets, batch.timestamps_ms, batch.keys, batch.values)
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def as_aiokafka_reads(data: bytes) -> list[Row]:
    records, rows = MemoryRecords(data), []
    while records.has_next():
        for record in records.next_batch():
            rows.append((record.offset, record.timestamp, record.key, record.value))
    return rows


texts = st.none() | st.binary(max_size=200) | st.integers(0, 70_000).map(lambda size: b"x" * size)
stamps = st.integers(0, 2**45)


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(stamps, texts, texts), min_size=1, max_size=40), st.integers(0, 4)), min_size=1
    ),
    st.integers(0, 2**40),
)
def test_records_of_any_size_are_what_aiokafka_reads(
    batches: list[tuple[list[tuple[int, bytes | None, bytes | None]], int]], base: int
) -> None:
    data, first = b"", base
    for records, compression in batches:
        rows = [(first + place, *record) for place, record in enumerate(records)]
        data += record_batch(rows, compression=compression, base=first)
        first += len(rows) + 3  # a gap, as compaction and markers leave it
    batch = take(data, position=base)
    batch.values.validate(full=True)  # what a view repeats of its value must be so
    assert rows_of(batch) == as_aiokafka_reads(data)
    assert (batch.start_offset, batch.next_offset) == (base, first - 3)


@pytest.mark.parametrize("together_bytes", [0, 10_000])
def test_partitions_that_are_read_together_have_their_own_records(
    together_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faust_fetch, "TOGETHER_BYTES", together_bytes)
    three = [
        [(7, 5, b"k", b"v" * 20), (8, 6, None, b"")],
        [(2, 1, b"", None)],
        [(900, 9, b"key", b"w" * 13), (901, 9, b"key", b"x"), (905, 9, b"", b"y")],
    ]
    fetches = [record_batch(rows, base=rows[0][0], compression=0) for rows in three]
    blocks = [taken(data, position=rows[0][0]) for data, rows in zip(fetches, three, strict=True)]
    read = read_taken([replace(one, partition=number) for number, one in enumerate(blocks)])
    assert [rows_of(batch) for batch in read] == three
    assert [(b.start_offset, b.next_offset) for b in read] == [(7, 9), (2, 3), (900, 906)]
    whole = [len(data) - HEADER_BYTES + COLUMNS_BYTES * len(rows) for data, rows in zip(fetches, three, strict=True)]
    keys = [1, 0, 6]
    assert [b.size_bytes for b in read] == [size + copied for size, copied in zip(whole, keys, strict=True)]


def test_what_waits_of_one_topic_holds_no_memory_of_another() -> None:
    blocks = taken(record_batch([(0, 5, b"k", b"v" * 100)]), position=0)
    places = [("invoices", 0), ("accounts", 0), ("invoices", 1)]
    read = read_taken([replace(blocks, topic=topic, partition=partition) for topic, partition in places])
    assert [(b.topic, b.partition) for b in read] == places
    memory = [b.values.buffers()[-1].address for b in read]
    assert memory[0] == memory[2] != memory[1]


def test_record_batches_that_overlap_are_refused() -> None:
    data = record_batch([(0, 5, None, b"a"), (1, 5, None, b"b")])
    with pytest.raises(CorruptRecordException, match="overlaps"):
        take(data + record_batch([(1, 5, None, b"b")], base=1))


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_is_read(name: str) -> None:
    rows: list[Row] = [(i, 1_795_439_760_547 + i, b'{"invoice_id":%d}' % i, b"v" * i) for i in range(500)]
    batch = take(record_batch(rows, compression=COMPRESSIONS[name]))
    batch.values.validate(full=True)
    assert rows_of(batch) == rows


def test_a_batch_that_begins_before_the_position_gives_only_what_is_asked_for() -> None:
    rows: list[Row] = [(i, 5, None, b"%d" % i) for i in range(10)]
    batch = take(record_batch(rows), position=7)
    assert rows_of(batch) == rows[7:]
    assert (batch.start_offset, batch.next_offset) == (7, 10)


def test_a_time_given_by_the_broker_counts_for_all_records() -> None:
    data = bytearray(record_batch([(0, 5, None, b"a"), (1, 9, None, b"b")]))
    data[22] |= 0x08  # timestamp type: log append time
    struct.pack_into(">q", data, 35, 77)  # max timestamp
    assert [row[1] for row in rows_of(take(resealed(data)))] == [77, 77]


def test_aborted_records_and_markers_give_no_record_but_move_the_position() -> None:
    kept = record_batch([(0, 5, None, b"plain")])
    aborted = record_batch([(1, 5, None, b"aborted")], producer=8, transactional=True, base=1)
    abort = (2, 5, b"\0\0\0\0", b"\0" * 6)
    marker = bytearray(record_batch([abort], compression=0, producer=8, transactional=True, base=2))
    marker[22] |= 0x20  # control batch
    later = record_batch([(3, 5, None, b"later")], producer=8, transactional=True, base=3)
    whole = kept + aborted + resealed(marker) + later
    batch = take(whole, aborted=[(8, 1)])
    assert [row[3] for row in rows_of(batch)] == [b"plain", b"later"]
    assert batch.next_offset == 4
    nothing = take(aborted, position=1, aborted=[(8, 1)])
    assert (len(nothing), nothing.start_offset, nothing.next_offset) == (0, 1, 2)


def test_a_damaged_batch_is_refused_by_its_checksum() -> None:
    data = bytearray(record_batch([(0, 5, b"k", b"value")], compression=0))
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException, match="checksum"):
        take(bytes(data))


def test_damage_under_a_fitting_checksum_is_refused_or_harmless() -> None:
    """Any byte of the records changed: an error, or as many records, of bytes of the batch."""
    chance = random.Random(7)
    rows: list[Row] = [(i, 5 + i, b"key%d" % i, b"value" * i) for i in range(20)]
    data = record_batch(rows, compression=0)
    refused = 0
    for place in range(61, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        try:
            batch = take(resealed(damaged))
        except CorruptRecordException:
            refused += 1
        else:
            assert len(batch) == len(rows)
            assert batch.size_bytes < 2 * len(data)
    assert refused > 50


def test_records_cut_short_are_refused() -> None:
    data = bytearray(record_batch([(i, 5, b"k", b"value") for i in range(3)], compression=0))
    struct.pack_into(">i", data, 57, 4)  # one record more than there is
    with pytest.raises(CorruptRecordException, match="not 4 whole records"):
        take(resealed(data))


def test_more_than_a_view_can_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = record_batch([(i, 5, b"k", b"v" * 1000) for i in range(3)])
    monkeypatch.setattr(kafka_records, "_MOST_BYTES", 3_100)
    assert len(take(data)) == 3
    monkeypatch.setattr(kafka_records, "_MOST_BYTES", 3_000)
    with pytest.raises(CorruptRecordException, match=r"from 0 on unpack to 3,\d+ bytes"):
        take(data)


def test_a_fetch_from_before_a_seek_gives_nothing() -> None:
    async def stale() -> TakenBlocks | None:
        result = await fetched(record_batch([(0, 5, None, b"v")]), position=0)
        result._assignment.state_value(PLACE).seek(9)
        return take_blocks(result, check_crcs=True)

    assert asyncio.run(stale()) is None


def test_an_old_message_format_is_refused() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1000)
    builder.append(0, timestamp=5, key=None, value=b"old")
    with pytest.raises(UnsupportedVersionError, match=r"before Kafka 0\.11"):
        take(bytes(builder.build()))
