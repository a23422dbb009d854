"""Workers: what each of 1, 2, 4 and 8 workers has to do, when all get the same changes to the same state.

    python -m benchmarks.workers [--workers N ...] [--invoices N] [--rounds N] [--json FILE]

A synthetic TRS is caught up with first. For each number of workers these start together, take their share of the
buckets and load its state. In each round every line of every invoice is corrected while they stand still, so that all
meet the same backlog however many they are, and the clock stops when all is committed: rows, documents and features.
The first round of a process is not measured: a worker runs for weeks. Told are, per round, the CPU seconds of a worker
for its share of the events (mean; what it uses while idle is taken off), and how many documents and features all of
them derived: an account whose documents come in several epochs is derived in each; and a worker's memory. Nobody folds
meanwhile: that is one worker's duty, and has a benchmark of its own. A worker whose commit is refused ends, and that
fails the benchmark. Needs a running stack (TRS_KAFKA, or the embedded one).
"""

import argparse
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from app.settings import Settings, load_settings
from app.wiring import kafka_config
from batch_bootstrap.events import Stamp, connect, row_events
from benchmarks.catch_up import SYNTHETIC, fill_topics
from benchmarks.report import Row, publish
from benchmarks.usage import cpu_seconds, peak_rss_mb
from benchmarks.worker_process import running_worker, worker_environment
from connectors.kafka import Producer
from processors.tables import INVOICE_LINE_ITEMS, topic_of

POLL_S = 1.0
"""Each look at a worker's page is work of the worker's, a millisecond or more: few of them."""
IDLE_S = 1.0
IDLE_LOOKS = 3
INTERVAL_S = 10.0
SETTLE_S = INTERVAL_S + 2
"""Nothing was committed for so long, longer than an interval: all is done."""
PATIENCE_S = 300.0
AT_ONCE = 100_000
"""Events that are made at once."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--invoices", type=int, default=200_000, help="of the state that the changes meet")
    parser.add_argument("--rounds", type=int, default=2, help="measured ones, after one that is not")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/workers.json")
    arguments = parser.parse_args()
    settings = load_settings(topic_prefix=f"share{uuid.uuid4().hex[:8]}.trs")
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        settings = settings.model_copy(update={"lake": f"{folder}/lake"})
        fill_topics(settings, arguments.invoices)
        with started(settings, Path(folder) / "first", "--until-caught-up") as worker:
            if worker.process.wait():
                raise SystemExit(worker.log.read_text())
        numbers = itertools.count()
        for count in arguments.workers:
            found[count] = measure(
                settings,
                Path(folder),
                count,
                lambda: correct_all_lines(settings, arguments.invoices, next(numbers)),
                rounds=arguments.rounds,
            )
            print(f"{count} workers: {found[count]}", file=sys.stderr)
    publish("workers", report_rows(found), {"invoices": arguments.invoices, "runs": found}, file=arguments.json)


def report_rows(found: dict[int, dict[str, float]]) -> list[Row]:
    """Each figure beside that of the smallest number of workers; a ratio of n says n times less."""
    rows, (first, base) = [], next(iter(found.items()))
    for measure_, key, unit in (
        ("CPU of a worker for its share of the events", "cpu_s", "s"),
        ("memory of a worker", "rss_mb", "MB"),
        ("documents and features derived by all", "derived", "rows"),
    ):
        for count, figures in found.items():
            peer = () if count == first else (f"{first} worker", base[key], base[key] / figures[key])
            rows.append(Row(f"{measure_}, {count} of them", figures[key], unit, *peer))
    return rows


class Worker:
    """A worker in a process of its own; `counts` is what its page tells."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, log: Path) -> None:
        self.process = process
        self.log = log
        self._home = home
        self._url = ""

    def stages(self) -> dict[str, Any] | None:
        """The engine's account of its stages; None before the worker has its buckets."""
        if self.process.poll() is not None:
            raise SystemExit(f"a worker ended:\n{self.log.read_text()}")
        if not self._url:
            place = self._home / f"worker-{self.process.pid}.json"
            if not place.exists():
                return None
            address = json.loads(place.read_text())
            self._url = f"http://{address['host']}:{address['port']}/status.json"
        with urllib.request.urlopen(self._url, timeout=30) as answer:
            status = json.load(answer)
        stages: dict[str, Any] = status["engine"]
        return stages if status["phase"] == "running" and status["buckets"] is not None else None

    def cpu_s(self) -> float:
        """CPU seconds up to now."""
        return cpu_seconds(self.process.pid)


@contextmanager
def started(settings: Settings, home: Path, *options: str) -> Iterator[Worker]:
    """A worker with this home; ended with the block."""
    environment = worker_environment(settings, home, interval_s=INTERVAL_S) | {
        "TRS_THREADS": "1",
        "TRS_UPKEEP_BUDGET_PERCENT": "0",
    }
    log = home / "worker.log"
    with running_worker(environment, *options, log=log) as process:
        yield Worker(process, home, log)


@contextmanager
def standing_still(workers: Sequence[Worker], *, at_most_s: float) -> Iterator[None]:
    """They do nothing within the block, which ends the benchmark if it took as long as a session of theirs."""
    began = time.monotonic()
    for worker in workers:
        worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.process.send_signal(signal.SIGCONT)
    if (stood_s := time.monotonic() - began) >= at_most_s:
        raise SystemExit(
            f"the changes took {stood_s:.0f} s to send: workers that stand still so long lose their buckets"
        )


def correct_all_lines(settings: Settings, invoices: int, run: int) -> int:
    """Sends an update of every line, with a quantity that it never had; returns how many."""
    table, sent = INVOICE_LINE_ITEMS, 0
    columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in table.columns)
    query = f"SELECT * REPLACE ({10 + run} AS quantity) FROM ({SYNTHETIC[table.name].format(invoices=invoices)})"
    producer, con = Producer(kafka_config(settings)), connect()
    rows = con.sql(f"SELECT {columns} FROM ({query})").to_arrow_table()
    for start in range(0, rows.num_rows, AT_ONCE):
        position = 1_000 + run * 1_000_000_000 + start
        stamp = Stamp(settings.source_names[-1], "trs", "mysql-bin.000001", position, time.time_ns() // 10**6, True)
        keys, values = row_events(con, table, rows.slice(start, AT_ONCE), stamp, op="u")
        producer.send(topic_of(settings.topic_prefix, table.name), keys, values)
        sent += len(keys)
    producer.flush()
    producer.close()
    con.close()
    return sent


def measure(settings: Settings, folder: Path, count: int, send: Callable[[], int], *, rounds: int) -> dict[str, float]:
    """The figures for so many workers, per round."""
    with ExitStack() as block:
        workers = [block.enter_context(started(settings, folder / f"{count}-{n}")) for n in range(count)]
        wait_for_shares(workers)
        sent = one_round(settings, workers, send, before=0)[0]
        idle = [idle_share(w) for w in workers]
        derived = _derived(workers)
        events, seconds = 0, 0.0
        used = [0.0] * count
        for _ in range(rounds):
            sent_now, took_s, cpu = one_round(settings, workers, send, before=sent + events)
            events, seconds = events + sent_now, seconds + took_s
            used = [u + c - share * took_s for u, c, share in zip(used, cpu, idle, strict=True)]
        return {
            "cpu_s": statistics.mean(used) / rounds,
            "idle_cpu_share": statistics.mean(idle),
            "seconds": seconds / rounds,
            "events": events / rounds,
            "derived": (_derived(workers) - derived) / rounds,
            "rss_mb": statistics.mean(peak_rss_mb(w.process.pid) for w in workers),
        }


def one_round(
    settings: Settings, workers: Sequence[Worker], send: Callable[[], int], *, before: int
) -> tuple[int, float, list[float]]:
    """Sends changes while the workers stand still and waits until they are done; returns how many, and the seconds and
    each worker's CPU seconds that they took. `before`: events that they have read before."""
    used = [w.cpu_s() for w in workers]
    with standing_still(workers, at_most_s=settings.session_timeout_s):
        sent = send()
    began = time.monotonic()
    ended, cpu = wait_until_done(workers, before + sent)
    return sent, ended - began, [c - u for c, u in zip(cpu, used, strict=True)]


def idle_share(worker: Worker) -> float:
    """CPU seconds per second of a worker that waits: the median, for once in a while it makes its state smaller."""
    shares = []
    for _ in range(IDLE_LOOKS):
        before = worker.cpu_s()
        time.sleep(IDLE_S)
        shares.append((worker.cpu_s() - before) / IDLE_S)
    return statistics.median(shares)


def wait_for_shares(workers: Sequence[Worker]) -> None:
    """Until every worker has as many buckets as the others."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stages = [w.stages() for w in workers]
        sizes = {len(each["invoices"]["buckets"]) if each else 0 for each in stages}
        if len(sizes) == 1 and 0 not in sizes:
            return
        time.sleep(POLL_S)
    raise SystemExit(f"{len(workers)} workers did not come to equal shares of the buckets in {PATIENCE_S:.0f} s")


def _derived(workers: Sequence[Worker]) -> int:
    """The documents and features that they have derived."""
    return sum(counts(w)[2] for w in workers)


def wait_until_done(workers: Sequence[Worker], events: int) -> tuple[float, list[float]]:
    """Until all events are read and nothing has been derived for a while; when that began, and the CPU seconds then."""
    deadline = time.monotonic() + PATIENCE_S
    last: list[tuple[int, ...]] = []
    ended, cpu = 0.0, [0.0]
    while time.monotonic() < deadline:
        now = [counts(w) for w in workers]
        if now != last:
            last, ended, cpu = now, time.monotonic(), [w.cpu_s() for w in workers]
        if sum(c[0] for c in now) >= events and time.monotonic() - ended > SETTLE_S:
            return ended, cpu
        time.sleep(POLL_S)
    raise SystemExit(f"{len(workers)} workers did not commit {events:,} events in {PATIENCE_S:.0f} s")


def counts(worker: Worker) -> tuple[int, ...]:
    """What a worker has read of the source's topics, read of documents, and derived."""
    stages = worker.stages()
    if stages is None:
        raise SystemExit(f"a worker lost its buckets:\n{worker.log.read_text()}")
    return (
        stages["skus"]["read"] + stages["invoices"]["read"],
        stages["accounts"]["read"],
        stages["invoices"]["derived"] + stages["accounts"]["derived"],
    )


if __name__ == "__main__":
    main()
