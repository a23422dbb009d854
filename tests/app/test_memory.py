"""One memory budget in parts, and budgets that are too small."""

import threading

import pyarrow as pa
import pytest

from app.doctor.machine import CONTAINER
from app.memory import MemoryPlan, divided, least_mb, plan_of
from app.settings import Settings
from connectors.faust_transport import ConsumerOptions
from processors.errors import SettingsError
from processors.inbox import Chunk, Inbox
from processors.records import DEAD_SCHEMA, RawBatch
from tests.app.commands import trs

MB = 1_000_000


@pytest.mark.parametrize("children", [0, 1, 2])
@pytest.mark.parametrize("budget_mb", [2_000, 4_096, 61_440])
def test_parts_of_a_budget_leave_a_rest_and_none_is_larger_than_without_one(budget_mb: int, children: int) -> None:
    plan = divided(budget_mb, "it", partitions=64, max_events=400_000, children=children)
    bound_mb = plan.state_mb + (4 * plan.inbox_bytes + plan.fetch_bytes) / MB + 2 * plan.queue_kbytes * 1024 / MB
    assert bound_mb < (budget_mb - 800 - children * 300) * 0.8
    free = ConsumerOptions("localhost:1", "group", 10)
    assert plan.fetch_bytes <= free.fetch_bytes
    assert plan.partition_bytes <= free.partition_bytes
    assert plan.max_events <= 400_000


def test_budget_of_a_large_worker_costs_no_speed() -> None:
    plan = divided(16_384, "it", partitions=64, max_events=400_000, children=0)
    free = MemoryPlan(2_000, 400_000)
    assert (plan.max_events, plan.fetch_bytes, plan.queue_kbytes) == (400_000, free.fetch_bytes, free.queue_kbytes)
    assert plan.inbox_bytes > free.inbox_bytes
    assert plan.state_mb > 16_384 * 0.4


@pytest.mark.parametrize("children", [0, 1])
def test_smallest_budget_is_taken_and_less_is_refused(children: int) -> None:
    least = least_mb(children)
    assert divided(least, "it", partitions=8, max_events=400_000, children=children).state_mb >= 149
    with pytest.raises(SettingsError, match=f"it is {least - 5:,} MB, and a worker needs {least:,}"):
        divided(least - 5, "it", partitions=8, max_events=400_000, children=children)


def test_worker_with_too_small_a_budget_ends_with_one_line() -> None:
    done = trs("worker", TRS_MEMORY_BUDGET_MB="900", TRS_KAFKA="127.0.0.1:1")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "TRS_MEMORY_BUDGET_MB is 900 MB, and a worker needs 1,438" in done.err


def test_containers_limit_is_the_budget_unless_a_setting_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (4_096, CONTAINER)
    monkeypatch.setattr("app.memory.memory_limit_mb", lambda: limit)
    assert plan_of(Settings()) == plan_of(Settings(memory_budget_mb=4_096))
    assert plan_of(Settings(memory_mb=777)).state_mb == 777
    limit = (4_096, "the machine")
    assert plan_of(Settings()) == MemoryPlan(2_000, 400_000)


def test_inbox_takes_no_more_than_its_bytes_until_what_was_taken_is_done_with() -> None:
    """Each value is a kilobyte, and so is the row that is made of it."""
    made = []

    def decode(topic: str, batches: object, positions: object) -> Chunk:
        assert isinstance(batches, list)
        made.append(len(batches))
        letters = [{"record_value": b"x" * 1000, "topic": topic, "partition": 0, "row_offset": 0} for _ in batches]
        dead = pa.Table.from_pylist(letters, schema=DEAD_SCHEMA)
        return Chunk(topic, None, len(batches), {0: 1}, dead=dead)

    box = Inbox(decode, max_records=10**6, max_bytes=20_000, on_arrival=int)
    box.reset({("t", 0): 0})
    offset = 0
    while box.has_room:
        box.offer(RawBatch.of("t", 0, [(b"k", b"x" * 1000)], start_offset=offset, timestamp_ms=0))
        offset += 1
    assert 15 <= offset <= 20

    thread = threading.Thread(target=box.run, daemon=True)
    thread.start()
    taken = []
    while sum(c.read for c in taken) < offset:
        taken += box.take(10**6)
    assert max(made) <= 5, "a quarter of the bytes is decoded at a time"
    assert not box.has_room, "what was taken still counts"
    box.finish()
    assert box.has_room
    box.stop()
    thread.join()
