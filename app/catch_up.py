"""`--until-caught-up`: when is everything done that stood in the topics at the start?"""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from connectors.kafka import KafkaConfig, watermarks
from processors.errors import UnavailableError
from processors.ports import Engine

_POLL_S = 0.5
_PAUSE_S = 0.1
"""Between two looks at the lake, however many epochs end."""

Place = tuple[str, int]


@dataclass(frozen=True)
class CaughtUp:
    """What a catch-up did: source records (offsets advanced, by all workers), seconds from first fetch to the end."""

    events: int
    seconds: float

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds > 0 else 0.0
        return f"caught up: {self.events:,} events in {self.seconds:.1f} s ({rate:,.0f} events/s)"


def remaining(positions: Mapping[Place, int], ends: Mapping[Place, int]) -> int:
    """Offsets below `ends` that `positions` have not reached; a missing position counts from 0."""
    return sum(max(0, end - positions.get(place, 0)) for place, end in ends.items())


async def catch_up(
    engine: Engine, kafka: KafkaConfig, derived_topics: Sequence[str], *, fetching: asyncio.Event
) -> CaughtUp:
    """Returns when all that was in the topics at the call is committed, the documents it caused and their features too.

    Looks at the lake, hence at the work of all workers together. First the input topics up to their present ends and
    every document and line sent; only then are the ends of these topics known, and awaited in their turn. `fetching`
    is set when this worker has its partitions: from then on time counts.
    """
    engine.set_draining()
    sources = tuple(topic for topic in engine.topics if topic not in derived_topics)
    ends = await _ends(kafka, sources)
    first = await asyncio.to_thread(engine.progress)
    todo = remaining(first.positions, ends)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar,
        ended_epochs(engine) as ended,
    ):
        await show_loading(engine, bar, until=fetching)
        started = time.monotonic()
        await _reach(engine, ends, bar, "records", ended, documents=True)
        derived_ends = await _ends(kafka, derived_topics)
        await _reach(engine, derived_ends, bar, "blocks of documents", ended, documents=False)
    return CaughtUp(todo, time.monotonic() - started)


async def show_loading(engine: Engine, bar: Progress, *, until: asyncio.Event) -> None:
    """Shows how many rows of its state the stage that loads has read, until the event is set."""
    stage, task = "", None
    while not until.is_set():
        loading = engine.loading
        if task is not None and (loading is None or loading.stage != stage):
            bar.remove_task(task)
            task = None
        if loading is not None:
            if task is None:
                stage, task = loading.stage, bar.add_task("", total=None)
            rows = loading.folded_rows + loading.log_rows
            doing = f"state of {stage}, {loading.step}"
            bar.update(task, description=doing, total=rows or None, completed=int(rows * loading.share))
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), _POLL_S)
    if task is not None:
        bar.remove_task(task)


@contextmanager
def ended_epochs(engine: Engine) -> Iterator[asyncio.Event]:
    """Sets the event whenever one of our own epochs ends: it may have been the last."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def tell(_epoch: object) -> None:
        loop.call_soon_threadsafe(ended.set)

    listeners = [activity.on_epoch for activity in engine.activities.values()]
    for told in listeners:
        told.append(tell)
    try:
        yield ended
    finally:
        for told in listeners:
            told.remove(tell)


async def _reach(
    engine: Engine, ends: Mapping[Place, int], bar: Progress, what: str, ended: asyncio.Event, *, documents: bool
) -> None:
    task = bar.add_task(what, total=None)
    total: int | None = None
    while True:
        if engine.parked:
            raise UnavailableError(
                "the lake holds features of a newer version than this worker's, so it can never catch up",
                hint="run the newer worker, or roll the SQL back under a higher version number",
            )
        progress = await asyncio.to_thread(engine.progress)
        left = remaining(progress.positions, ends)
        total = left if total is None else total
        bar.update(task, total=total, completed=total - left)
        settled = progress.documents_settled if documents else progress.features_settled
        if left == 0 and settled:
            return
        await asyncio.sleep(_PAUSE_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _POLL_S - _PAUSE_S)
        ended.clear()


async def _ends(kafka: KafkaConfig, topics: Sequence[str]) -> dict[Place, int]:
    held = await asyncio.to_thread(watermarks, kafka, topics)
    return {place: end for place, (_, end) in held.items()}
