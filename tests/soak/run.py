"""One soak: a stack of its own, a source that changes steadily, two workers, a lag peak in the middle; the checks."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from confluent_kafka import Producer as LibraryProducer

from app.settings import Settings
from app.verify import verify
from batch_bootstrap.emit import Touched
from devstack.stack import Stack
from processors.tables import INVOICES, topic_of
from tests.chaos.checks import compare_with_source
from tests.chaos.workload import LastingSkus, Workload
from tests.long_run import fill_source, settings_of, trs_logged
from tests.soak.flat import Bound, Trend, trend
from tests.soak.samples import Sampler, Series, WorkerProcess
from tests.stack_helpers import row_count, start_worker
from tests.waiting import wait_until

WORKERS = 2
WARM_UP = 0.25
"""The share of the time that is not judged: caches fill, and the first level of compaction."""
_FEATURES = "invoice_features_changes"
_LETTER_EVERY_S = 5.0
_PATIENCE_S = 600.0
_DRAINS = 3

_OF_WORKER = (
    Bound("memory", "MB", share=0.10, absolute=20, step_share=0.20),
    Bound("open files", "", share=0.0, absolute=5),
    Bound("threads", "", share=0.0, absolute=3, pooled=10),
    Bound("local files", "", share=0.0, absolute=3),
    Bound("spilled", "MB", share=0.10, absolute=10),
)
_FRESHNESS = Bound("freshness", "s", share=0.5, absolute=2.0)
FILES_PER_COMMIT = 0.04
"""Of the files that commits add, so many may stay: compaction makes one of 32, and one of 32 of those."""


@dataclass
class Outcome:
    """What a soak found. Good when there is no problem."""

    trends: list[Trend] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    samples: dict[str, Series] = field(default_factory=dict)


class _BackDated(LastingSkus):
    """A fifth of the invoices were issued within the last year, so that what follows them in their account changes."""

    def issue_invoice(self) -> list[Touched]:
        touched = super().issue_invoice()
        if touched and self._random.random() < 0.2:
            key = touched[0].key
            issued = self._cell(INVOICES, key, "date_issued") - timedelta(days=self._random.randint(1, 365))
            self._update(INVOICES, key, "date_issued", issued)
        return touched


class Soak:
    """`tell` is given a line for everything that happens. The lake is a folder, the broker and database are real."""

    def __init__(
        self, folder: Path, *, minutes: float, rate: float, invoices: int, seed: int, tell: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._seconds = minutes * 60
        self._rate = rate
        self._invoices = invoices
        self._seed = seed
        self._begin_s = time.monotonic()
        self._tell_line = tell
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs to the end. Raises where it cannot; what it finds stands in the outcome."""
        self._folder.mkdir(parents=True)
        stack = Stack(self._folder)
        try:
            settings = _settings(stack.up(report=lambda part, message: self._tell(f"{part} {message}")), self._folder)
            self._fill(settings)
            with self._workers(settings) as workers:
                self._keep_changing(settings, workers)
            self._drain(settings)
            self._check(settings)
        finally:
            stack.down(wipe=False)
        return self.outcome

    def _tell(self, line: str) -> None:
        self._tell_line(f"{self._clock():7.1f} s  {line}")

    def _clock(self) -> float:
        return time.monotonic() - self._begin_s

    def _fill(self, settings: Settings) -> None:
        self._tell(fill_source(settings, self._invoices, seed=self._seed))
        self._trs(settings, "bootstrap", "snapshot", "--source", "mysql")

    @contextmanager
    def _workers(self, settings: Settings) -> Iterator[list[WorkerProcess]]:
        """Two workers that have caught up; they are stopped in order at the end, which must be clean."""
        started: list[WorkerProcess] = []
        try:
            for number in range(1, WORKERS + 1):
                home = self._folder / f"home-{number}"
                home.mkdir()
                own = settings.model_copy(update={"home": home})
                process = start_worker(own, self._log(f"worker-{number}"))
                started.append(WorkerProcess(f"worker {number}", process, home))
            yield started
            for worker in started:
                worker.process.send_signal(signal.SIGTERM)
            for worker in started:
                code = worker.process.wait(60)
                if code != 0:
                    self.outcome.problems.append(f"{worker.name} ended with code {code}")
        finally:
            for worker in started:
                if worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()

    def _keep_changing(self, settings: Settings, workers: list[WorkerProcess]) -> None:
        wait_until(
            lambda: row_count(settings, _FEATURES) >= self._invoices,
            timeout_s=_PATIENCE_S,
            what="the workers have caught up",
        )
        self._tell("the workers have caught up")
        sampler = Sampler(workers, Path(settings.lake), self._clock)
        workload = Workload(settings, seed=self._seed, rate=self._rate, changes=_BackDated)
        letters = _Letters(settings)
        begin_s = self._clock()
        sampler.start()
        workload.start()
        self._go_on(begin_s + self._seconds * 0.5, workers, letters)
        peak = self._peak(settings, workers, sampler)
        self._go_on(begin_s + self._seconds, workers, letters)
        sampler.stop()
        workload.stop()
        letters.close()
        self.outcome.facts |= {
            "changes": workload.changes,
            "row events": workload.emitted,
            "dead letters": letters.sent,
        }
        self._judge(sampler, begin_s + self._seconds * WARM_UP, begin_s + self._seconds, peak)

    def _go_on(self, until_s: float, workers: list[WorkerProcess], letters: "_Letters") -> None:
        while self._clock() < until_s:
            letters.send()
            for worker in workers:
                if worker.process.poll() is not None:
                    raise AssertionError(f"{worker.name} ended with code {worker.process.returncode} by itself")
            time.sleep(min(_LETTER_EVERY_S, max(0.1, until_s - self._clock())))

    def _peak(self, settings: Settings, workers: list[WorkerProcess], sampler: Sampler) -> tuple[float, float]:
        """Both workers stand still while every row is sent again; returns from when to when they were behind."""
        begin_s = self._clock()
        for worker in workers:
            os.kill(worker.process.pid, signal.SIGSTOP)
        try:
            self._trs(settings, "bootstrap", "snapshot", "--source", "mysql")
        finally:
            for worker in workers:
                os.kill(worker.process.pid, signal.SIGCONT)
        went_on_s = self._clock()
        wait_until(
            lambda: (
                len(sampler.series["lag"].within(went_on_s + 6, self._clock()).values) > 0
                and (sampler.last("lag") or 0) < 20 * self._rate
            ),
            timeout_s=_PATIENCE_S,
            what="the workers have caught up again",
        )
        end_s = self._clock()
        self.outcome.facts["seconds to catch up"] = round(end_s - went_on_s, 1)
        self.outcome.facts["greatest lag"] = max(sampler.series["lag"].values)
        self._tell(f"caught up {end_s - went_on_s:.0f} s after the peak")
        return begin_s, end_s + 5

    def _judge(self, sampler: Sampler, begin_s: float, end_s: float, peak: tuple[float, float]) -> None:
        """The peak counts in everything but freshness, which is what the peak takes away."""
        series = self.outcome.samples = sampler.series
        for number in range(1, WORKERS + 1):
            for bound in _OF_WORKER:
                name = f"worker {number} {bound.measure}"
                judged = series[name].within(begin_s, end_s)
                named = replace(bound, measure=name)
                self.outcome.trends.append(trend(named, judged.at_s, judged.values, peak_s=peak[0]))
        judged = series["freshness"].within(begin_s, end_s, without=peak)
        self.outcome.trends.append(trend(_FRESHNESS, judged.at_s, judged.values))
        commits = series["lake versions"].within(begin_s, end_s).values
        files = series["lake files"].within(begin_s, end_s)
        bound = Bound("lake files", "", share=0.0, absolute=FILES_PER_COMMIT * (commits[-1] - commits[0]))
        self.outcome.trends.append(trend(bound, files.at_s, files.values))
        self.outcome.facts["commits"] = commits[-1] - commits[0]
        self.outcome.problems += [
            f"{t.measure} grows: {t.per_hour:+.1f} {t.unit} an hour, {t.rise:+.1f} of at most {t.allowed:.1f},"
            f" by the peak {t.step:+.1f} of at most {t.allowed_step:.1f}"
            for t in self.outcome.trends
            if not t.flat
        ]

    def _drain(self, settings: Settings) -> None:
        """Catches up until nothing is left to derive: prices of the last moment may need a second catch-up."""
        for _ in range(_DRAINS):
            self._trs(settings, "worker", "--until-caught-up")
            if not verify(settings, price_at=settings.price_at).pending:
                return

    def _check(self, settings: Settings) -> None:
        self._trs(settings, "lake", "maintain")
        report = verify(settings, price_at=settings.price_at)
        report.raise_unless_sound()
        self._tell(f"trs lake verify: {len(report.outcomes)} checks hold")
        for compared in compare_with_source(settings, self._folder):
            self.outcome.rows[compared.name] = compared.rows
            if compared.problem is not None:
                self.outcome.problems.append(compared.problem)
        kept = row_count(settings, "dead_letters")
        if kept != self.outcome.facts["dead letters"]:
            self.outcome.problems.append(f"{kept} dead letters, but {self.outcome.facts['dead letters']} were sent")

    def _log(self, name: str) -> Path:
        (self._folder / "logs").mkdir(exist_ok=True)
        return self._folder / "logs" / f"{name}.log"

    def _trs(self, settings: Settings, *arguments: str) -> None:
        trs_logged(settings, self._folder / "logs", *arguments, timeout_s=_PATIENCE_S)
        self._tell(f"trs {' '.join(arguments)}")


class _Letters:
    """Records that no decoder can read, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._topic = topic_of(settings.topic_prefix, INVOICES.name)
        self._partitions = settings.partitions
        self._producer = LibraryProducer({"bootstrap.servers": settings.kafka})
        self._chance = random.Random(1)
        self.sent = 0

    def send(self) -> None:
        """One more."""
        value = self._chance.randbytes(self._chance.randint(1, 2000))
        self._producer.produce(self._topic, value=value, partition=self.sent % self._partitions)
        self.sent += 1
        self._producer.poll(0)

    def close(self) -> None:
        """Returns once the broker has all."""
        if self._producer.flush(60):
            raise AssertionError("Kafka did not take all bad records")


def _settings(stack: dict[str, str], folder: Path) -> Settings:
    """Small epochs, frequent upkeep, little memory: what grows shall show."""
    return settings_of(
        stack,
        home=folder,
        lake=str(folder / "lake"),
        price_at="current",
        epoch_interval_s=1,
        idle_epoch_s=5,
        fold_min_rows=2000,
        fold_share_percent=5,
        upkeep_every="20s",
        session_timeout_s=300,
    )
