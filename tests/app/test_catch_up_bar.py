"""`--until-caught-up`: the bar while a worker loads its state, and the epochs that may have been the last."""

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from app.catch_up import ended_epochs, show_loading
from processors.activity import Activity
from processors.ports import Engine, LoadProgress


class Loads:
    """The part of an engine that tells how far a load is."""

    loading: LoadProgress | None = None


def test_bar_shows_the_stage_that_loads_and_its_rows_until_it_has_its_partitions() -> None:
    engine = Loads()
    bar = Progress(TextColumn("{task.description}"), MofNCompleteColumn(), console=Console(file=io.StringIO()))

    def shown() -> list[tuple[str, float, float | None]]:
        return [(task.description, task.completed, task.total) for task in bar.tasks]

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.01)

    async def watch() -> None:
        done = asyncio.Event()
        showing = asyncio.create_task(show_loading(cast(Engine, engine), bar, until=done))
        await asyncio.sleep(0)
        assert shown() == []
        begun = LoadProgress("invoices", 8, "opening tables", 0, 0, 0.0, 0.1)
        engine.loading = begun
        await until(lambda: shown() == [("state of invoices, opening tables", 0, None)])
        engine.loading = replace(begun, step="reading rows", folded_rows=900, log_rows=100, share=0.4)
        await until(lambda: shown() == [("state of invoices, reading rows", 400, 1000)])
        engine.loading = replace(begun, stage="accounts")
        await until(lambda: shown() == [("state of accounts, opening tables", 0, None)])
        done.set()
        await showing
        assert shown() == []

    asyncio.run(watch())


def test_epoch_that_ends_in_its_thread_wakes_the_watch_and_afterwards_nobody_is_told() -> None:
    stages = SimpleNamespace(activities={name: Activity(name) for name in ("invoices", "accounts")})

    def run_epoch(stage: str) -> None:
        with stages.activities[stage].epoch(f"{stage}:0:1"):
            pass

    async def watch() -> None:
        with ended_epochs(cast(Engine, stages)) as ended:
            for stage in stages.activities:
                await asyncio.to_thread(run_epoch, stage)
                await asyncio.wait_for(ended.wait(), 30)
                ended.clear()
        await asyncio.to_thread(run_epoch, "invoices")
        await asyncio.sleep(0)
        assert not ended.is_set()
        assert not any(activity.on_epoch for activity in stages.activities.values())

    asyncio.run(watch())
