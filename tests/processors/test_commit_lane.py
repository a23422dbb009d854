"""Commits beside computing: in order, none after one that failed, and nothing is sent that is not in the log."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from processors.activity import EpochTrace
from processors.commit_lane import CommitLane
from processors.document_codec import DOCUMENT_BLOCKS
from processors.errors import FencedError
from processors.lake_tables import EPOCHS, INVOICE_LOG
from processors.stage import StageContext
from processors.stages import InvoiceStage
from processors.state import open_state
from processors.tables import INVOICE_LINE_ITEMS, INVOICES
from tests.processors.block_records import rows_sent
from tests.processors.memory_lake import Disk, MemoryLake
from tests.processors.test_put_off import BUCKET, Source, invoice
from tests.waiting import wait_until

SLOW_S = 0.5


def test_commits_are_made_in_order_while_the_stage_goes_on() -> None:
    lane, made, may_go = CommitLane(), list[int](), threading.Event()

    def first() -> None:
        may_go.wait(30)
        made.append(0)

    lane.put(first)
    for number in range(1, 50):
        lane.put(partial(made.append, number))
    assert made == []
    may_go.set()
    lane.settle()
    assert made == list(range(50))
    lane.put(partial(made.append, 50))
    lane.settle()
    assert made[-1] == 50


def test_after_a_commit_that_failed_no_other_begins() -> None:
    lane, made, may_fail = CommitLane(), list[int](), threading.Event()

    def fail() -> None:
        may_fail.wait(30)
        raise FencedError("another owner")

    lane.put(partial(made.append, 0))
    lane.put(fail)
    lane.put(partial(made.append, 1))
    may_fail.set()
    for _ in range(2):
        with pytest.raises(FencedError, match="another owner"):
            lane.settle()
        lane.put(partial(made.append, 2))
    assert made == [0]


class Story:
    """What the lake and the topic see, in their order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refuses: str | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        """Done before the commit to the log."""

    partitions = 1

    def step(self, label: str) -> None:
        if label == f"before a commit to {INVOICE_LOG.name}":
            self.meanwhile()
        if label == self.refuses:
            raise FencedError("another owner")
        if "commit to" in label:
            self.told.append(label)

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        documents = rows_sent(DOCUMENT_BLOCKS, values, generation=MemoryLake.generation)
        self.told.append(f"{len(documents)} documents are sent")

    def flush(self) -> dict[int, int]:
        return {}


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def stage(tmp_path: Path, story: Story) -> InvoiceStage:
    """A stage that owns its bucket, before its first epoch."""
    con = open_state(spill=tmp_path / "spill", memory_mb=200, threads=1)
    con.execute("SET TimeZone = 'UTC'")
    topics = [f"test.{t.name}" for t in (INVOICES, INVOICE_LINE_ITEMS)]
    lake = MemoryLake(Disk(tmp_path), story.step)
    context = StageContext(lake=lake, topic_ids={t: t for t in topics}, writer="test")
    opened = InvoiceStage(context, con, topics, sink=story, price_at="creation", stopping=lambda: False)
    opened.assign(frozenset({BUCKET}))
    story.told.clear()
    return opened


def awaited(stage: InvoiceStage) -> str | None:
    """What the epoch under way is said to do, once it waits for the commit to the log."""
    running = stage.activity.look(0).running
    return None if running is None or running.detail != INVOICE_LOG.name else str(running)


def traced(stage: InvoiceStage, run: Callable[[], object]) -> EpochTrace:
    traces: list[EpochTrace] = []
    stage.activity.on_epoch.append(traces.append)
    run()
    return traces[-1]


def test_documents_are_derived_beside_the_log_and_sent_after_it(stage: InvoiceStage, story: Story) -> None:
    story.meanwhile = lambda: wait_until(
        lambda: awaited(stage) is not None, timeout_s=30, what="the stage has derived and waits for the commit"
    )
    trace = traced(stage, lambda: stage.run_epoch([Source().chunk(INVOICES, invoice(1))]))
    assert story.told == [
        f"before a commit to {INVOICE_LOG.name}",
        f"after a commit to {INVOICE_LOG.name}",
        "1 documents are sent",
        f"before a commit to {EPOCHS.name}",
        f"after a commit to {EPOCHS.name}",
    ]
    log = next(s for s in trace.steps if s.detail == INVOICE_LOG.name)
    derived = next(s for s in trace.steps if s.name == "derive")
    assert derived.began_s + derived.seconds < log.began_s + log.seconds


@pytest.mark.parametrize("table", [INVOICE_LOG.name, EPOCHS.name])
def test_epoch_whose_commit_is_refused_fails_and_sends_nothing_of_it(
    stage: InvoiceStage, story: Story, table: str
) -> None:
    story.refuses = f"before a commit to {table}"
    source = Source()
    with pytest.raises(FencedError, match="another owner"):
        stage.run_epoch([source.chunk(INVOICES, invoice(1))])
    assert ("1 documents are sent" in story.told) == (table == EPOCHS.name)
    story.refuses = None
    told = list(story.told)
    with pytest.raises(FencedError, match="another owner"):
        stage.run_epoch([source.chunk(INVOICES, invoice(2))])
    assert story.told == told, "a stage that was refused touches nothing any more"


def test_the_commit_that_an_epoch_waits_for_is_told_and_not_as_computing(stage: InvoiceStage, story: Story) -> None:
    told: list[str | None] = []

    def wait() -> None:
        wait_until(lambda: awaited(stage) is not None, timeout_s=30, what="the stage waits for the commit")
        told.append(awaited(stage))
        time.sleep(SLOW_S)

    story.meanwhile = wait
    trace = traced(stage, lambda: stage.run_epoch([Source().chunk(INVOICES, invoice(1))]))
    assert told[0] is not None
    assert f"committing {INVOICE_LOG.name}" in told[0]
    computed_s = sum(s.seconds for s in trace.steps if s.name != "commit")
    assert computed_s <= trace.seconds - SLOW_S
