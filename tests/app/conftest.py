"""Worker processes around a RecordingEngine, and a lake with its topics, for the tests that need them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import ensure_topics
from tests.app.lake_world import World, end
from tests.app.worker_process import Ledger, Start, WorkerProcess, topics


@pytest.fixture
def settings(stack_settings: Settings) -> Settings:
    """Four partitions, a session that ends fast, topics made."""
    own = stack_settings.model_copy(update={"partitions": 4, "session_timeout_s": 6.0})
    ensure_topics(kafka_config(own), topics(own), own.partitions)
    return own


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The file that all recording engines of a test share."""
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def start(settings: Settings, ledger: Ledger) -> Iterator[Start]:
    """Starts workers and ends those that still run."""
    workers: list[WorkerProcess] = []

    def begin(*options: str, **changes: object) -> WorkerProcess:
        own = settings.model_copy(update=changes)
        workers.append(WorkerProcess(own, ledger, *options, number=len(workers)))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()


@pytest.fixture(scope="module")
def resting(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A filled lake at rest, of which every test has a copy."""
    world = World(tmp_path_factory.mktemp("resting"))
    world.fill()
    end(world.shell())
    return world


@pytest.fixture
def world(resting: World, tmp_path: Path) -> Iterator[World]:
    """A copy of that lake, and its topics."""
    world = World(tmp_path)
    shutil.copytree(resting.folder / "lake", tmp_path / "lake")
    world.topics.records.update({topic: list(records) for topic, records in resting.topics.records.items()})
    yield world
    world.close()


@pytest.fixture
def place(world: World) -> str:
    """Where backups go."""
    return str(world.folder / "backups")
