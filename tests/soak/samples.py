"""What is looked at while the workers run: each worker's process and pages, and the lake's tables."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen

import psutil
from deltalake import DeltaTable

EVERY_S = 2.0
_ANSWER_S = 5.0


@dataclass(frozen=True)
class WorkerProcess:
    """A worker of the soak: its process, and the folder of its local state, where spilled state lies too."""

    name: str
    process: "Popen[bytes]"
    home: Path


@dataclass
class Series:
    """Values with their times, seconds since the soak began."""

    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        self.at_s.append(at_s)
        self.values.append(value)

    def within(self, begin_s: float, end_s: float, *, without: tuple[float, float] | None = None) -> "Series":
        """The part from `begin_s` to `end_s`; `without`: a span that is left out."""
        kept = Series()
        for at_s, value in zip(self.at_s, self.values, strict=True):
            if begin_s <= at_s <= end_s and not (without is not None and without[0] <= at_s <= without[1]):
                kept.add(at_s, value)
        return kept


class Sampler:
    """Takes samples in a thread from `start` to `stop`; `series` has them by measure."""

    def __init__(self, workers: Sequence[WorkerProcess], lake: Path, clock: Callable[[], float]) -> None:
        self.series: dict[str, Series] = {}
        self.failure: Exception | None = None
        self._workers = workers
        self._lake = lake
        self._clock = clock
        self._processes = {w.name: psutil.Process(w.process.pid) for w in workers}
        self._tables: dict[str, DeltaTable] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Raises what ended the sampling before its time."""
        self._ended.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def last(self, measure: str) -> float | None:
        """The newest value, None before the first one."""
        taken = self.series.get(measure)
        return taken.values[-1] if taken is not None and taken.values else None

    def _run(self) -> None:
        try:
            while not self._ended.wait(EVERY_S):
                self._look()
        except Exception as error:  # noqa: BLE001 - handed over whole to `stop`
            self.failure = error

    def _look(self) -> None:
        told = [self._look_at(worker) for worker in self._workers]
        if all(each is not None for each in told):
            self._note("freshness", max(each[0] for each in told if each is not None))
            self._note("lag", sum(each[1] for each in told if each is not None))
        files, versions = self._look_at_lake()
        self._note("lake files", files)
        self._note("lake versions", versions)

    def _note(self, measure: str, value: float) -> None:
        self.series.setdefault(measure, Series()).add(self._clock(), value)

    def _look_at(self, worker: WorkerProcess) -> tuple[float, int] | None:
        """Notes what the kernel says of the process; returns its freshness and lag, None while it does not answer."""
        process = self._processes[worker.name]
        with process.oneshot():
            self._note(f"{worker.name} memory", process.memory_info().rss / 2**20)
            self._note(f"{worker.name} open files", process.num_fds())
            self._note(f"{worker.name} threads", process.num_threads())
        files = [path for path in worker.home.rglob("*") if path.is_file()]
        self._note(f"{worker.name} local files", len(files))
        self._note(f"{worker.name} spilled", sum(_size(path) for path in files) / 2**20)
        return _ask(worker)

    def _look_at_lake(self) -> tuple[int, int]:
        files = versions = 0
        for folder in sorted(self._lake.iterdir()):
            if folder.name not in self._tables:
                if not (folder / "_delta_log").is_dir():
                    continue
                self._tables[folder.name] = DeltaTable(str(folder))
            table = self._tables[folder.name]
            table.update_incremental()
            files += len(table.file_uris())
            versions += table.version()
        return files, versions


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a spill that ended meanwhile
        return 0


def _ask(worker: WorkerProcess) -> tuple[float, int] | None:
    if psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED:
        return None
    try:
        address = json.loads((worker.home / f"worker-{worker.process.pid}.json").read_text())
        url = f"http://{address['host']}:{address['port']}/status.json"
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            status = json.load(answer)
    except (OSError, HTTPException, ValueError):
        return None
    ages = [stage["freshness_s"] for stage in status["stages"]]
    if not ages or any(age is None for age in ages):
        return None
    return max(ages), sum(place["records"] for place in status["lag"])
