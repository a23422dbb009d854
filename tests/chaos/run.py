"""One run: a stack of its own, a source that changes, workers, faults; then rest, and the lake must be right."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings
from app.verify import verify
from batch_bootstrap.changes import TrsChanges
from devstack.fault_proxy import FaultProxy
from devstack.stack import Stack
from processors.errors import TrsError
from tests.chaos.checks import compare_with_source, worker_problems
from tests.chaos.faults import Kind, plan
from tests.chaos.workers import Workers
from tests.chaos.workload import LastingSkus, Workload
from tests.chaos.world import SESSION_TIMEOUT_S, World, can_mount
from tests.long_run import fill_source, settings_of, trs_logged
from tests.stack_helpers import row_count
from tests.waiting import wait_until

INVOICES = 300
WORKERS = 3
_DRAIN_S = 300.0
_DRAINS = 3
_POLL_S = 0.1


@dataclass
class Outcome:
    """What a run did and found. Good when there is no problem."""

    faults: Counter[Kind] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    rows: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    starts: int = 0
    drains: int = 0
    changes: int = 0
    events: int = 0
    requests: int = 0
    requests_failed: int = 0
    seconds: float = 0.0
    price_at: str = ""
    left_out: tuple[str, ...] = ()


class Run:
    """`tell` is given a line for everything that happens."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        faults: int,
        rate: float,
        tell: Callable[[str], None],
        upkeep_every: str = "3s",
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._count = faults
        self._rate = rate
        self._upkeep_every = upkeep_every
        self._began = time.monotonic()
        self._tell_line = tell
        self._log = folder / "chaos.log"
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs to the end, whatever it finds."""
        self._folder.mkdir(parents=True, exist_ok=True)
        outcome = self.outcome
        chance = random.Random(f"{self._seed} world")
        outcome.price_at = chance.choice(("current", "creation"))
        stack = Stack(self._folder)
        try:
            environment_ = stack.up(report=lambda part, message: self._tell(f"{part} {message}"))
        except BaseException:
            stack.down(wipe=False)
            raise
        settings = self._settings(environment_)
        (s3,) = [p for p in stack.parts() if p.name == "s3"]
        assert s3.port is not None
        proxy = FaultProxy(upstream_port=s3.port, seed=self._seed)
        proxy.start()
        small_disks = can_mount(self._folder / "mount-test")
        world = World(stack, settings, proxy, self._folder, small_disks, self._tell)
        without = () if small_disks else (Kind.DISK_FULL,)
        outcome.left_out = tuple(f"{kind}: this user may not mount a small disk" for kind in without)
        try:
            self._fill(settings)
            changes = LastingSkus if outcome.price_at == "current" else TrsChanges
            workload = Workload(settings, seed=self._seed, rate=self._rate, changes=changes)
            world.workers.start(WORKERS)
            workload.start()
            wait_until(
                lambda: row_count(settings, "invoice_features_changes") > 0, timeout_s=_DRAIN_S, what="features appear"
            )
            self._tell("features appear")
            self._meet_faults(world, without)
            self._come_to_rest(world, workload)
            self._check(world)
        except (TrsError, AssertionError, OSError, subprocess.SubprocessError) as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self._count_up(world)
            world.close()
        outcome.seconds = time.monotonic() - self._began
        return outcome

    def _settings(self, stack: dict[str, str]) -> Settings:
        """Small epochs, frequent folds and short sessions."""
        return settings_of(
            stack,
            home=self._folder,
            price_at=self.outcome.price_at,
            epoch_interval_s=0.3,
            epoch_max_events=200,
            idle_epoch_s=2,
            fold_min_rows=50,
            upkeep_every=self._upkeep_every,
            session_timeout_s=SESSION_TIMEOUT_S,
        )

    def _tell(self, line: str) -> None:
        stamped = f"{time.monotonic() - self._began:7.1f} s  {line}"
        with self._log.open("a", encoding="utf-8") as log:
            log.write(stamped + "\n")
        self._tell_line(stamped)

    def _fill(self, settings: Settings) -> None:
        self._tell(fill_source(settings, INVOICES, seed=self._seed))
        self._trs(settings, "bootstrap", "snapshot", "--source", "mysql")

    def _meet_faults(self, world: World, without: tuple[Kind, ...]) -> None:
        for planned in plan(self._seed, self._count, session_timeout_s=SESSION_TIMEOUT_S, without=without):
            self._wait(world, planned.wait_s)
            told = world.apply(planned)
            self.outcome.faults[planned.kind] += 1
            self._tell(f"{planned.number:3d}/{self._count} {planned.kind}: {told}")
        while world.undos:
            self._wait(world, _POLL_S)

    def _wait(self, world: World, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            world.undo_due()
            time.sleep(_POLL_S)

    def _come_to_rest(self, world: World, workload: Workload) -> None:
        workload.stop()
        self.outcome.changes, self.outcome.events = workload.changes, workload.emitted
        self._tell(f"the source rests after {workload.changes} changes, {workload.emitted} row events")
        world.undo_due(all_of_them=True)
        world.proxy.clear()
        world.workers.end()
        self._tell(f"the workers have stopped: {_told(world.workers)}")
        self._drain(world.settings)

    def _drain(self, settings: Settings) -> None:
        """Catches up until nothing is left to derive: prices of the last moment may need a second catch-up."""
        for _ in range(_DRAINS):
            self._trs(settings, "worker", "--until-caught-up", timeout_s=_DRAIN_S)
            self.outcome.drains += 1
            pending = verify(settings, price_at=settings.price_at).pending
            if not pending:
                return
            self._tell(f"not all is derived: {'; '.join(pending)}")

    def _check(self, world: World) -> None:
        problems = self.outcome.problems
        for fold in world.folds:  # one round at a time on a machine
            fold.wait(120)
        self._trs(world.settings, "lake", "maintain", "--vacuum-now")
        report = verify(world.settings, price_at=world.settings.price_at)
        try:
            report.raise_unless_sound()
        except TrsError as error:
            problems.append(f"trs lake verify: {error}")
        problems += [
            f"trs lake verify: {o.check} of {o.table} ({o.promise}): {o.failures} rows, as {o.example}"
            for o in report.outcomes
            if o.holds is False
        ]
        for compared in compare_with_source(world.settings, self._folder):
            self.outcome.rows[compared.name] = compared.rows
            if compared.problem is not None:
                problems.append(compared.problem)

    def _count_up(self, world: World) -> None:
        outcome = self.outcome
        outcome.codes, outcome.starts = world.workers.codes(), world.workers.starts
        outcome.requests, outcome.requests_failed = world.proxy.requests, world.proxy.met.total()
        outcome.problems += worker_problems(world.workers)

    def _trs(self, settings: Settings, *arguments: str, timeout_s: float = 120) -> None:
        began = time.monotonic()
        trs_logged(settings, self._folder / "logs", *arguments, timeout_s=timeout_s)
        self._tell(f"trs {' '.join(arguments)}: {time.monotonic() - began:.1f} s")


def _told(workers: Workers) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(workers.codes().items())) or "none ended before"
