"""The inbox: what of a topic it has seen."""

import threading

import pyarrow as pa

from processors.inbox import Chunk, Inbox
from processors.records import RawBatch


def inbox() -> Inbox:
    return Inbox(
        lambda topic, batches, positions: Chunk(topic, None, 0, positions), max_records=9, max_bytes=999, on_ready=int
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
        lambda topic, batches, positions: Chunk(topic, rows, 1, positions), max_records=9, max_bytes=9_999, on_ready=int
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
