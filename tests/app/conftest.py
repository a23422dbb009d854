"""Worker processes around a RecordingEngine, for the tests of this folder that need them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import ensure_topics
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
