"""A peer of the worker's shell: an engine that keeps what it is given in a SQLite file shared by all workers.

It is what the lake is to the real engine: one transaction takes the offsets of a batch and the position after it, and
refuses a batch that does not continue the stored position. Run as a program it is a whole worker:
`python tests/app/recording_engine.py FILE [--until-caught-up] [--accept-gap] [--fail-after N] [--slow-commit S]
[--slow-load S]`.
"""

import argparse
import asyncio
import json
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from app.run_worker import run_worker
from app.settings import Settings, load_settings
from processors.activity import Activity
from processors.errors import FencedError, InvariantError, TrsError
from processors.ports import LakeProgress, LoadProgress, StateMemory, StoredPosition
from processors.records import RawBatch
from processors.tables import DOCUMENTS_TOPIC, all_topics

SCHEMA = """
CREATE TABLE IF NOT EXISTS positions
  (topic TEXT, partition INT, next_offset INT, topic_id TEXT, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS batches
  (pid INT, topic TEXT, partition INT, start_offset INT, next_offset INT, offsets TEXT, size_bytes INT);
CREATE TABLE IF NOT EXISTS calls (at REAL, pid INT, name TEXT, detail TEXT);
"""


async def ignore_the_end() -> None:
    """Does not end when it is cancelled."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


class RecordingEngine:
    """Implements the port `Engine`; commits every `interval_s` in a thread of its own."""

    def __init__(
        self,
        file: Path,
        topics: tuple[str, ...],
        topic_ids: Mapping[str, str],
        *,
        interval_s: float = 0.05,
        fail_after: int | None = None,
        error: Exception | None = None,
        slow_commit_s: float = 0.0,
        slow_load_s: float = 0.0,
        max_queued: int = 64,
        keep: bool = True,
        park: int | None = None,
        stuck_progress: bool = False,
        stubborn_task: bool = False,
        stuck_loop: bool = False,
    ) -> None:
        self.failure: Future[None] = Future()
        self.file = file
        self._topics = topics
        self._ids = topic_ids
        self._interval_s = interval_s
        self._fail_after = fail_after
        self._error = error
        self._slow_commit_s = slow_commit_s
        self._slow_load_s = slow_load_s
        self._loads_since_s: float | None = None
        self._max_queued = max_queued
        self._keep = keep
        self._park = park
        self._stuck_progress = stuck_progress
        self._stubborn_task = stubborn_task
        self._stuck_loop = stuck_loop
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: queue.Queue[RawBatch] = queue.Queue()
        self._expected: dict[tuple[str, int], int | None] = {}
        self._lock = threading.RLock()
        self._open = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._commit_for_ever, daemon=True)
        self.records = 0
        self._activity = Activity("all")
        self._epoch = 0
        self._positions: dict[tuple[str, int], int] = {}
        with self._connect() as con:
            con.executescript(SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=30, isolation_level=None)

    def _note(self, name: str, detail: object = None) -> None:
        with self._connect() as con:
            con.execute("INSERT INTO calls VALUES (?, ?, ?, ?)", (time.time(), os.getpid(), name, json.dumps(detail)))

    @property
    def activities(self) -> Mapping[str, Activity]:
        return {"all": self._activity}

    @property
    def conflicts(self) -> Mapping[tuple[str, str], int]:
        return {}

    @property
    def memory(self) -> StateMemory | None:
        return None

    @property
    def topics(self) -> tuple[str, ...]:
        return self._topics

    def start(self) -> None:
        self._thread.start()
        self._note("start")

    @property
    def loading(self) -> LoadProgress | None:
        since_s = self._loads_since_s
        if since_s is None:
            return None
        seconds = time.monotonic() - since_s
        return LoadProgress("invoices", 4, "reading rows", 900, 100, min(1.0, seconds / self._slow_load_s), seconds)

    def assign(self, buckets: frozenset[int]) -> dict[tuple[str, int], StoredPosition | None]:
        if self._slow_load_s:
            self._loads_since_s = time.monotonic()
            time.sleep(self._slow_load_s)
            self._loads_since_s = None
        with self._lock:
            self._queue = queue.Queue()
            with self._connect() as con:
                rows = con.execute("SELECT topic, partition, next_offset, topic_id FROM positions").fetchall()
            stored = {(t, p): StoredPosition(n, i) for t, p, n, i in rows}
            found = {(t, b): stored.get((t, b)) for t in self._topics for b in buckets if not self._is_parked(t, b)}
            self._expected = dict.fromkeys(found)
            self._open = True
            self._positions = {p: s.next_offset for p, s in found.items() if s is not None}
            self._activity.opened(buckets, self._positions)
        self._note("assign", sorted(buckets))
        return found

    @property
    def parked(self) -> frozenset[int]:
        return frozenset() if self._park is None else frozenset({self._park})

    def _is_parked(self, topic: str, bucket: int) -> bool:
        return bucket == self._park and topic.endswith(DOCUMENTS_TOPIC)

    def revoke(self) -> None:
        with self._lock:
            self._open = False
            self._expected = {}
            self._queue = queue.Queue()
        self._note("revoke")

    def expect(self, behind: Mapping[tuple[str, int], int]) -> None:
        """It has no backlog to judge."""

    def offer(self, batch: RawBatch) -> None:
        if self._stuck_loop:
            self._note("offer")
            threading.Event().wait()
        with self._lock:
            place = (batch.topic, batch.partition)
            if self._is_parked(*place):
                self._note("offered though parked", place)
            if not self._open or place not in self._expected:
                return
            expected = self._expected[place]
            if expected is not None and expected != batch.start_offset:
                raise InvariantError(f"{place}: expected {expected}, offered {batch.start_offset}")
            self._expected[place] = batch.next_offset
            if self._keep:
                self._queue.put(batch)
            self.records += len(batch)  # last: whoever sees the count and an empty queue knows that it was taken
        if self._fail_after is not None and self.records >= self._fail_after and not self.failure.done():
            self.failure.set_exception(self._error or RuntimeError("on purpose"))

    def has_room(self) -> bool:
        if self._stubborn_task:
            self._tasks.append(asyncio.get_running_loop().create_task(ignore_the_end()))
            self._stubborn_task = False
        return self._queue.qsize() < self._max_queued

    def set_draining(self) -> None:
        self._note("set_draining")

    def progress(self) -> LakeProgress:
        if self._stuck_progress:
            self._note("progress")
            threading.Event().wait()
        with self._connect() as con:
            rows = con.execute("SELECT topic, partition, next_offset FROM positions").fetchall()
        return LakeProgress({(t, p): n for t, p, n in rows}, documents_settled=True, features_settled=True)

    def status(self) -> dict[str, object]:
        return {"records": self.records, "queued": self._queue.qsize()}

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._note("stop")

    def _commit_for_ever(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._commit()
            except TrsError as error:
                if not self.failure.done():
                    self.failure.set_exception(error)
                return

    def _commit(self) -> None:
        with self._lock:
            taken = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            self._epoch += 1
            with self._activity.epoch(f"all:0:{self._epoch}") as notes, self._activity.step("commit", "batches"):
                self._commit_batches(taken)
                notes.read = sum(len(batch) for batch in taken)
                self._positions |= {(b.topic, b.partition): b.next_offset for b in taken}
                notes.positions = self._positions

    def _commit_batches(self, taken: list[RawBatch]) -> None:
        if taken:
            con = self._connect()
            con.execute("BEGIN IMMEDIATE")
            for batch in taken:
                row = con.execute(
                    "SELECT next_offset FROM positions WHERE topic = ? AND partition = ?",
                    (batch.topic, batch.partition),
                ).fetchone()
                if row is not None and row[0] != batch.start_offset and "--accept-gap" not in sys.argv:
                    raise FencedError(f"{batch.topic}-{batch.partition}: at {row[0]}, got {batch.start_offset}")
                con.execute(
                    "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        os.getpid(),
                        batch.topic,
                        batch.partition,
                        batch.start_offset,
                        batch.next_offset,
                        json.dumps(batch.offsets.to_pylist()),
                        sum(map(len, filter(None, batch.values.to_pylist()))),
                    ),
                )
                con.execute(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
                    (batch.topic, batch.partition, batch.next_offset, self._ids[batch.topic]),
                )
            time.sleep(self._slow_commit_s)
            con.execute("COMMIT")
            con.close()


def main() -> int:
    """A worker process around a RecordingEngine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--until-caught-up", action="store_true")
    parser.add_argument("--accept-gap", action="store_true")
    parser.add_argument("--fail-after", type=int)
    parser.add_argument("--fail-with", choices=["fenced", "fault"], default="fault")
    parser.add_argument("--slow-commit", type=float, default=0.0)
    parser.add_argument("--slow-load", type=float, default=0.0)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--park", type=int)
    parser.add_argument("--stuck-progress", action="store_true")
    parser.add_argument("--stubborn-task", action="store_true")
    parser.add_argument("--stuck-loop", action="store_true")
    options = parser.parse_args()
    settings: Settings = load_settings()
    error = FencedError("bucket 3 has another owner") if options.fail_with == "fenced" else KeyError("a slip")
    engines: list[RecordingEngine] = []

    def make(ids: dict[str, str]) -> RecordingEngine:
        engine = RecordingEngine(
            options.file,
            all_topics(settings.topic_prefix),
            ids,
            fail_after=options.fail_after,
            error=error,
            slow_commit_s=options.slow_commit,
            slow_load_s=options.slow_load,
            keep=not options.null,
            park=options.park,
            stuck_progress=options.stuck_progress,
            stubborn_task=options.stubborn_task,
            stuck_loop=options.stuck_loop,
        )
        engines.append(engine)
        return engine

    return run_worker(settings, make, until_caught_up=options.until_caught_up, accept_gap=options.accept_gap)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrsError as failed:
        sys.stderr.write(f"error: {failed}\n")
        sys.exit(failed.exit_code)
