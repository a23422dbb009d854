"""Upkeep beside epochs: how much longer epochs take while another process folds, compacts and vacuums the lake.

    python -m benchmarks.upkeep [--invoices N] [--changes N] [--epochs N] [--interval S] [--json FILE]

A synthetic TRS (4.5 lines per invoice) is put into a lake. A process that owns all buckets, as a worker does, begins
an epoch of `--changes` row changes every `--interval` seconds (see benchmarks.epochs): of the rows (A) and of the
features (B), with all their commits, without Kafka. Three times, each with a copy of the lake: alone; with `trs lake
maintain` as the worker runs it, at 10 % of the time; and with one round after another, which no worker does. Every
round folds all that waits, so that there is more to do than in production. Told are median and 95th percentile of the
seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from benchmarks.epochs import MEMORY_MB, WARM_UP, Day, copy
from benchmarks.filled_lake import BUCKETS, Feed, fill
from benchmarks.report import Row, publish
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.engine import COMPRESS_ABOVE_PERCENT
from processors.state import compress

MODES = {"alone": 0.0, "upkeep at 10 %": 10.0, "upkeep all the time": 100.0}
"""Percent of the time that upkeep takes."""
_FIRST_S = 15.0
"""Before the first round: state is loaded, and there is something to do."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=110_000, help="size of the state, 4.5 lines each")
    parser.add_argument("--changes", type=int, default=1_000, help="row events per epoch")
    parser.add_argument("--epochs", type=int, default=120, help="measured ones")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds from one epoch's begin to the next")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/upkeep.json")
    parser.add_argument("--in-process", type=json.loads, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process is not None:
        print(json.dumps(epochs(**arguments.in_process)))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        filled = Path(folder) / "filled"
        fill(DeltaLake(LakeLocation(str(filled))), arguments.invoices)
        options = {"changes": arguments.changes, "count": arguments.epochs, "interval_s": arguments.interval}
        found = {mode: measure(filled, percent, options) for mode, percent in MODES.items()}
    publish("upkeep", rows(found), {**options, "invoices": arguments.invoices, "modes": found}, file=arguments.json)


def rows(found: dict[str, dict[str, Any]]) -> list[Row]:
    """Median and 95th percentile of each mode against those of the worker alone, and how much upkeep there was."""
    alone = found["alone"]
    told = []
    for mode, figures in found.items():
        for name in ("p50", "p95"):
            value = figures[f"{name}_s"]
            peer = () if figures is alone else ("alone", alone[f"{name}_s"], alone[f"{name}_s"] / value)
            told.append(Row(f"{name} of an epoch, {mode}", value, "s", *peer))
        if figures is not alone:
            told.append(Row(f"share of the time, {mode}", figures["upkeep_percent"], "%"))
            told.append(Row(f"files taken away, {mode}", figures["files"], "files"))
    return told


@dataclass
class Upkeep:
    """Rounds in processes of their own, in a thread, until it is told to stop."""

    uri: str
    home: Path
    percent: float
    done: Counter[str] = field(default_factory=Counter)
    files: int = 0
    _ended_s: float = 0.0
    _began_s: float | None = None

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Upkeep":
        if self.percent:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self.percent:
            self._thread.join()

    @property
    def busy_s(self) -> float:
        """Seconds of all rounds so far, that which runs included."""
        return self._ended_s + (0.0 if self._began_s is None else time.monotonic() - self._began_s)

    def _run(self) -> None:
        worker = {"TRS_MEMORY_MB": str(MEMORY_MB // 4), "TRS_THREADS": "1", "TOKIO_WORKER_THREADS": "2"}
        folds = {"TRS_FOLD_MIN_ROWS": "1", "TRS_FOLD_SHARE_PERCENT": "0"}
        lake = {"TRS_LAKE": self.uri, "TRS_HOME": str(self.home), "TRS_PARTITIONS": str(BUCKETS)}
        command = [sys.executable, "-m", "app.cli.main", "lake", "maintain", "--background", "--json"]
        while not self._stopping.wait(_FIRST_S if not self._ended_s else 0):
            self._began_s = time.monotonic()
            told = subprocess.run(
                command, env={**os.environ, **worker, **folds, **lake}, check=True, stdout=subprocess.PIPE
            )
            for each in json.loads(told.stdout)["done"]:
                self.done[each["action"]] += 1
                self.files += (each["files_before"] or 0) - (each["files_after"] or 0)
            took_s = time.monotonic() - self._began_s
            self._ended_s, self._began_s = self._ended_s + took_s, None
            self._stopping.wait(took_s * (100 / self.percent - 1))


def measure(filled: Path, percent: float, options: dict[str, Any]) -> dict[str, Any]:
    """The epochs of one mode on a copy of the lake, in a process of their own."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-copy-") as folder:
        uri = f"{folder}/lake"
        copy(filled, pafs.LocalFileSystem(), uri)
        command = [sys.executable, "-m", "benchmarks.upkeep", "--in-process", json.dumps({"uri": uri, **options})]
        with Upkeep(uri, Path(folder) / "home", percent) as upkeep:
            began_s = time.monotonic()
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            whole_s = time.monotonic() - began_s
            busy_s = upkeep.busy_s
    seconds: list[float] = json.loads(told)
    found = {
        "p50_s": statistics.median(seconds),
        "p95_s": percentile(seconds, 95),
        "slowest_s": max(seconds),
        "upkeep_percent": 100 * busy_s / whole_s,
        "files": upkeep.files,
        "done": dict(upkeep.done),
    }
    print(f"{percent} %: {found}", file=sys.stderr)
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """By the nearest rank."""
    return sorted(values)[-(-percent * len(values) // 100) - 1]


def epochs(*, uri: str, changes: int, count: int, interval_s: float) -> list[float]:
    """The seconds of each epoch, begun at fixed times, or at once if the last took longer."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        feed = Feed(DeltaLake(LakeLocation(uri)), Path(spill), MEMORY_MB)
        compress(feed.invoices.con, beyond_mb=MEMORY_MB * COMPRESS_ABOVE_PERCENT // 100)
        day, seconds, due_s = Day(feed, changes), [], time.monotonic()
        for number in range(WARM_UP + count):
            tables = day.epoch(number)
            time.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + interval_s, time.monotonic())
            started = time.perf_counter()
            feed.epoch(feed.invoices, tables)
            seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


if __name__ == "__main__":
    main()
