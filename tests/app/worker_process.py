"""Worker processes around a RecordingEngine, and what they left in its file."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import watermarks
from processors.tables import all_topics
from tests.waiting import wait_until

_REPOSITORY = Path(__file__).parents[2]


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process these settings."""
    names = ("home", "kafka", "topic_prefix", "group", "partitions", "session_timeout_s", "web_port", "log_format")
    own = {f"TRS_{name.upper()}": str(getattr(settings, name)) for name in names}
    return {**os.environ, **own, "PYTHONPATH": str(_REPOSITORY)}


@dataclass
class Ledger:
    """Reads the file of the recording engines."""

    file: Path

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer, or nothing while the file is not there yet."""
        if not self.file.exists():
            return []
        with sqlite3.connect(self.file, timeout=30) as con:
            try:
                return con.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition that was read."""
        return {(t, p): n for t, p, n in self.rows("SELECT topic, partition, next_offset FROM positions")}

    def offsets(self) -> dict[tuple[str, int], list[int]]:
        """All committed offsets per partition, in the order of their commits."""
        found: dict[tuple[str, int], list[int]] = {}
        for topic, partition, offsets in self.rows("SELECT topic, partition, offsets FROM batches ORDER BY rowid"):
            found.setdefault((topic, partition), []).extend(json.loads(offsets))
        return found

    def buckets(self, pid: int) -> set[int] | None:
        """What this worker was assigned last; None before and during a rebalance."""
        calls = self.rows(f"SELECT name, detail FROM calls WHERE pid = {pid} ORDER BY rowid DESC LIMIT 1")
        return set(json.loads(calls[0][1])) if calls and calls[0][0] == "assign" else None


class WorkerProcess:
    """One worker; its log is kept in a file."""

    def __init__(self, settings: Settings, ledger: Ledger, *options: str, number: int = 0) -> None:
        self.log_file = ledger.file.with_name(f"worker-{number}.log")
        self._settings = settings
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.app.recording_engine", str(ledger.file), *options],
                env=environment(settings),
                stderr=log,
                stdout=log,
                cwd=ledger.file.parent,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self.log_file.read_text(encoding="utf-8")

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {timeout_s} s; its log:\n{self.log}") from None

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        address = self._settings.home / f"worker-{self.pid}.json"
        wait_until(address.exists, timeout_s=90, what="the worker says where its pages are")
        where = json.loads(address.read_text(encoding="utf-8"))
        try:
            with urllib.request.urlopen(f"http://{where['host']}:{where['port']}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(20)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait()


Start = Callable[..., WorkerProcess]
"""Starts a worker with these options of the engine; named arguments change its settings."""


def produce(settings: Settings, table: str, count: int, *, size: int = 100, partition: int | None = None) -> None:
    """Writes `count` records of `size` bytes to the table's topic, round robin unless a partition is named."""
    failures: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka,
            "message.max.bytes": 21_000_000,
            "linger.ms": 5,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _: failures.append(str(error)),
        }
    )
    topic = f"{settings.topic_prefix}.{table}"
    for number in range(count):
        where = number % settings.partitions if partition is None else partition
        producer.produce(topic, value=b"x" * size, partition=where)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert failures == [], failures[0]


def topics(settings: Settings) -> tuple[str, ...]:
    """Every topic of these settings."""
    return all_topics(settings.topic_prefix)


def ends(settings: Settings) -> dict[tuple[str, int], int]:
    """Where each partition of these settings ends."""
    held = watermarks(kafka_config(settings), topics(settings))
    return {place: end for place, (_, end) in held.items()}


def caught_up(settings: Settings, ledger: Ledger) -> bool:
    """Whether all that the topics hold is committed."""
    positions = ledger.positions()
    return all(positions.get(place, 0) == end for place, end in ends(settings).items())


def share(ledger: Ledger, *workers: WorkerProcess) -> bool:
    """Whether the workers own all four buckets, each bucket once."""
    owned = [ledger.buckets(worker.pid) for worker in workers]
    return all(owned) and sorted(b for buckets in owned for b in buckets or ()) == [0, 1, 2, 3]
