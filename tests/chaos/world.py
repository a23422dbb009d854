"""The stack of a run, with the proxy in front of its S3 server, and what each fault does to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings
from devstack import processes
from devstack.fault_proxy import Fault, FaultProxy, Weather
from devstack.stack import Stack
from tests.chaos.faults import Kind, Planned
from tests.chaos.workers import Workers
from tests.stack_helpers import environment

SESSION_TIMEOUT_S = 6.0
"""The least that the broker grants."""
_DISK_BYTES = 2_000_000


@dataclass(frozen=True)
class Undo:
    """What ends a fault that lasts."""

    at_s: float
    action: Callable[[], None]
    told: str


@dataclass
class World:
    """The parts of one run. `settings` lead to the S3 server itself, `faulty` through the proxy."""

    stack: Stack
    settings: Settings
    proxy: FaultProxy
    folder: Path
    small_disks: bool
    tell: Callable[[str], None]
    undos: list[Undo] = field(default_factory=list)
    folds: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    mounted: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.faulty = self.settings.model_copy(update={"aws_endpoint": self.proxy.url})
        self.workers = Workers(self.faulty, self.folder, prepare_home=self._prepare_home)

    def _prepare_home(self, home: Path) -> None:
        if self.small_disks:
            mount_small_disk(home, _DISK_BYTES)
            self.mounted.append(home)

    def apply(self, planned: Planned) -> str:
        """Makes a fault happen; returns what exactly."""
        fault = planned.kind.s3_fault
        if fault is not None:
            return self._s3_window(planned, fault)
        return _ACTIONS[planned.kind](self, planned)

    def undo_due(self, *, all_of_them: bool = False) -> None:
        """Ends the faults whose time is over, or all."""
        due = [u for u in self.undos if all_of_them or u.at_s <= time.monotonic()]
        self.undos = [u for u in self.undos if u not in due]
        for undo in due:
            undo.action()
            self.tell(undo.told)

    def _later(self, seconds: float, action: Callable[[], None], told: str) -> None:
        self.undos.append(Undo(time.monotonic() + seconds, action, told))

    def _s3_window(self, planned: Planned, fault: Fault) -> str:
        rate = 1.0 if fault is Fault.SLOW else planned.rate
        wait_s = 0.05 + 0.5 * planned.chance if fault is Fault.SLOW else planned.lasts_s
        weather = Weather((fault,), rate=rate, wait_s=wait_s)
        self.proxy.set(weather)

        def end() -> None:
            if self.proxy.weather is weather:  # else a later window took its place
                self.proxy.clear()

        self._later(planned.lasts_s, end, f"    end of the window {planned.kind}")
        return f"{rate:.0%} of the requests for {planned.lasts_s:.1f} s"

    def _signal(self, planned: Planned) -> str:
        slot = self.workers.choose(planned.pick)
        if slot is None:
            return "no worker runs"
        number = signal.SIGKILL if planned.kind is Kind.KILL else signal.SIGTERM
        self.workers.signal(slot, number)
        return f"worker {slot.number}"

    def _pause(self, planned: Planned) -> str:
        slot = self.workers.choose(planned.pick)
        if slot is None or slot.process is None:
            return "no worker runs"
        process = slot.process
        process.send_signal(signal.SIGSTOP)
        self._later(planned.lasts_s, lambda: process.send_signal(signal.SIGCONT), f"    worker {slot.number} goes on")
        return f"worker {slot.number} for {planned.lasts_s:.1f} s"

    def _add(self, planned: Planned) -> str:
        if len(self.workers.wanted) >= 4:
            return "there are four"
        return f"worker {self.workers.add().number}"

    def _remove(self, planned: Planned) -> str:
        slot = self.workers.choose(planned.pick)
        if slot is None or len(self.workers.wanted) <= 2:
            return "there are but two"
        number = signal.SIGKILL if planned.chance < 0.5 else signal.SIGTERM
        self.workers.remove(slot, number)
        return f"worker {slot.number} by {number.name}"

    def _fold(self, planned: Planned) -> str:
        with (self.folder / "logs" / "fold.log").open("ab") as log:
            command = [sys.executable, "-m", "app.cli.main", "lake", "maintain", "--vacuum-now"]
            all_that_waits = {"TRS_FOLD_MIN_ROWS": "1", "TRS_FOLD_SHARE_PERCENT": "0"}
            process = subprocess.Popen(command, env=environment(self.faulty) | all_that_waits, stdout=log, stderr=log)
        self.folds.append(process)
        if planned.kind is Kind.FOLD:
            return "begun"
        seconds = 1.5 + planned.lasts_s / 2  # it takes about a second to start
        self._later(seconds, process.kill, "    the fold is killed")
        return f"begun, to be killed after {seconds:.1f} s"

    def _restart_kafka(self, planned: Planned) -> str:
        return self._restart("kafka", kill=planned.kind is Kind.KAFKA_KILL)

    def _restart_s3(self, planned: Planned) -> str:
        # What the server acknowledges while it saves its content would be lost: nothing may be under way.
        self.proxy.shut()
        try:
            return self._restart("s3", kill=False)
        finally:
            self.proxy.reopen()

    def _restart(self, name: str, *, kill: bool) -> str:
        began = time.monotonic()
        (part,) = [p for p in self.stack.parts() if p.name == name]
        process = processes.find(part.record)
        if process is None:
            raise AssertionError(f"{name} ended by itself:\n{processes.tail(part.log)}")
        if kill:
            process.kill()
            process.wait(10)
        else:
            processes.stop(part.record, timeout_s=part.stop_timeout_s)
        port = part.port
        self.stack.up()
        if {p.name: p.port for p in self.stack.parts()}[name] != port:
            raise AssertionError(f"{name}: somebody else took port {port}")
        return f"back after {time.monotonic() - began:.1f} s"

    def _fill_disk(self, planned: Planned) -> str:
        slot = self.workers.choose(planned.pick)
        if slot is None:
            return "no worker runs"
        ballast = slot.home / "ballast"
        fill_disk(ballast)
        at_start = planned.chance < 0.5
        if at_start:
            self.workers.signal(slot, signal.SIGKILL)
        seconds = planned.lasts_s + (4 if at_start else 0)
        self._later(seconds, lambda: ballast.unlink(missing_ok=True), f"    the disk of worker {slot.number} has room")
        return f"worker {slot.number} for {seconds:.1f} s" + (", killed" if at_start else "")

    def close(self) -> None:
        """Ends everything that this run started; its folder stays."""
        self.workers.kill()
        for fold in self.folds:
            fold.kill()
            fold.wait()
        self.proxy.stop()
        for home in self.mounted:
            subprocess.run(["umount", "--lazy", str(home)], check=False)
        self.stack.down(wipe=False)


_ACTIONS: dict[Kind, Callable[[World, Planned], str]] = {
    Kind.KILL: World._signal,
    Kind.TERM: World._signal,
    Kind.PAUSE: World._pause,
    Kind.ZOMBIE: World._pause,
    Kind.ADD: World._add,
    Kind.REMOVE: World._remove,
    Kind.FOLD: World._fold,
    Kind.FOLD_KILL: World._fold,
    Kind.KAFKA_KILL: World._restart_kafka,
    Kind.KAFKA_STOP: World._restart_kafka,
    Kind.S3_RESTART: World._restart_s3,
    Kind.DISK_FULL: World._fill_disk,
}


def mount_small_disk(folder: Path, size_bytes: int) -> None:
    """A disk of its own in memory, for the user who may mount one."""
    options = f"size={size_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount; tried, because root in a container may not."""
    if os.geteuid() != 0:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mount_small_disk(folder, _DISK_BYTES)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def fill_disk(ballast: Path) -> None:
    """Writes a file until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return
