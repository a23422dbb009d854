"""The inbox: what of a topic it has seen."""

import threading
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from processors.inbox import Chunk, Inbox
from processors.records import RawBatch
from tests.waiting import wait_until


def inbox() -> Inbox:
    return Inbox(
        lambda topic, batches, positions: Chunk(topic, None, 0, positions), max_records=9, max_bytes=999, on_arrival=int
    )


def test_partition_is_reached_by_what_the_lake_holds_or_by_what_is_offered() -> None:
    box = inbox()
    box.reset({("documents", 0): 5, ("documents", 1): 0, ("other", 0): 9})
    assert box.has_reached("documents", {0: 5, 1: 0})
    assert box.has_reached("documents", {0: 5, 7: 99})  # of a partition that another worker owns
    assert not box.has_reached("documents", {0: 6})
    box.offer(RawBatch.of("documents", 0, [(b"{}", b"{}")], start_offset=5, timestamp_ms=0))
    assert box.has_reached("documents", {0: 6, 1: 0})
    assert not box.has_reached("documents", {0: 6, 1: 1})


def test_epoch_is_bounded_by_rows_where_records_hold_several() -> None:
    rows = pa.table({"x": range(6)})
    box = Inbox(
        lambda topic, batches, positions: Chunk(topic, rows, 1, positions),
        max_records=9,
        max_bytes=9_999,
        on_arrival=int,
    )
    box.reset(dict.fromkeys([("documents", 0), ("lines", 0), ("others", 0)], 0))
    decoding = threading.Thread(target=box.run)
    decoding.start()
    for topic in ("documents", "lines", "others"):  # a chunk each
        box.offer(RawBatch.of(topic, 0, [(b"{}", b"{}")]))
    try:
        assert [c.topic for c in box.take(7)] == ["documents", "lines"]
    finally:
        box.stop()
        decoding.join()


def test_few_records_wait_undecoded_until_the_stage_asks_and_many_do_not() -> None:
    """Each value is of a kilobyte, and a quarter of the inbox is decoded ahead."""
    calls: list[int] = []
    arrivals: list[int] = []

    def decode(topic: str, batches: Sequence[RawBatch], positions: Mapping[int, int]) -> Chunk:
        calls.append(len(batches))
        return Chunk(topic, None, len(batches), positions)

    box = Inbox(decode, max_records=99, max_bytes=20_000, on_arrival=lambda: arrivals.append(1))
    box.reset({("t", 0): 0})
    decoding = threading.Thread(target=box.run)
    decoding.start()

    def offer(offset: int) -> None:
        box.offer(RawBatch.of("t", 0, [(b"k", b"x" * 1000)], start_offset=offset))

    try:
        for offset in range(3):
            offer(offset)
        time.sleep(0.2)  # in which they would be decoded
        assert calls == []
        assert len(arrivals) == 3, "the stage is told of each"
        assert sum(c.read for c in box.take(99)) == 3
        assert calls == [3]
        for offset in range(3, 8):
            offer(offset)
        wait_until(lambda: sum(calls) == 8, timeout_s=10, what="much is decoded before the stage asks")
    finally:
        box.stop()
        decoding.join()
