"""Workers as processes under a supervisor that starts again those that end."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings
from tests.stack_helpers import environment

_POLL_S = 0.1
_RESTART_S = 0.3
_END_S = 60.0
EXPECTED_CODES = frozenset({0, 4, 6, 7, 8, 10, -signal.SIGKILL, -signal.SIGTERM})
"""How a worker may end amid faults; anything else, a fault of the program (70) above all, fails the run."""


@dataclass
class Slot:
    """A place for one worker: its home, its log, its process of the moment."""

    number: int
    home: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    wanted: bool = True
    ended_at: float = 0.0
    codes: list[int] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Workers:
    """`prepare_home` makes the home of a slot before its first worker starts."""

    def __init__(self, settings: Settings, folder: Path, *, prepare_home: Callable[[Path], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._prepare_home = prepare_home
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.slots: list[Slot] = []
        self.starts = 0

    def start(self, count: int) -> None:
        """Starts so many workers and the supervisor."""
        for _ in range(count):
            self.add()
        self._thread.start()

    @property
    def wanted(self) -> list[Slot]:
        with self._lock:
            return [s for s in self.slots if s.wanted]

    def choose(self, pick: float) -> Slot | None:
        """A slot whose worker runs; None when none does. `pick` in [0, 1)."""
        with self._lock:
            alive = [s for s in self.slots if s.wanted and s.alive]
        return alive[int(pick * len(alive))] if alive else None

    def add(self) -> Slot:
        """One slot more, or one that was removed before, at once with a worker."""
        with self._lock:
            free = next((s for s in self.slots if not s.wanted and not s.alive), None)
            if free is None:
                number = len(self.slots) + 1
                free = Slot(number, self._folder / f"home-{number}", self._folder / "logs" / f"worker-{number}.log")
                free.home.mkdir(parents=True)
                free.log.parent.mkdir(exist_ok=True)
                self._prepare_home(free.home)
                self.slots.append(free)
            free.wanted = True
            self._spawn(free)
            return free

    def remove(self, slot: Slot, number: signal.Signals) -> None:
        """Ends a slot's worker with a signal; it is not started again."""
        with self._lock:
            slot.wanted = False
            self.signal(slot, number)

    def signal(self, slot: Slot, number: signal.Signals) -> None:
        """Sends a signal to a slot's worker, if it lives."""
        with self._lock:
            if slot.process is not None and slot.alive:
                slot.process.send_signal(number)

    def codes(self) -> Counter[int]:
        """How workers ended so far."""
        with self._lock:
            return Counter(code for slot in self.slots for code in slot.codes)

    def end(self) -> None:
        """Stops all in order and waits; those that do not stop are killed, which counts as a failure (code -1)."""
        self._ending.set()
        self._thread.join()
        for slot in self.slots:
            self.signal(slot, signal.SIGCONT)
            self.signal(slot, signal.SIGTERM)
        deadline = time.monotonic() + _END_S
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                code = slot.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
                code = -1
            slot.codes.append(code)
            slot.process = None

    def kill(self) -> None:
        """Ends whatever still lives, at once."""
        self._ending.set()
        for slot in self.slots:
            if slot.process is not None and slot.alive:
                slot.process.kill()
                slot.process.wait()

    def _spawn(self, slot: Slot) -> None:
        settings = self._settings.model_copy(update={"home": slot.home})
        env = environment(settings) | {"TMPDIR": str(slot.home)}  # where the disk may be full
        with slot.log.open("ab") as log:
            log.write(f"--- start {self.starts + 1} of slot {slot.number}\n".encode())
            log.flush()
            slot.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "worker", "--wait"], env=env, stdout=log, stderr=log
            )
        self.starts += 1

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_S):
            with self._lock:
                for slot in self.slots:
                    self._look_after(slot)

    def _look_after(self, slot: Slot) -> None:
        if slot.process is not None and slot.process.poll() is not None:
            code = slot.process.returncode
            slot.codes.append(code)
            with slot.log.open("ab") as log:
                log.write(f"--- ended with code {code}\n".encode())
            slot.process, slot.ended_at = None, time.monotonic()
        if slot.process is None and slot.wanted and time.monotonic() - slot.ended_at > _RESTART_S:
            self._spawn(slot)
