"""What a cut-over has done so far, on disk: one JSON file per connector, which in the end is its report."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from processors.errors import RetryableError


@dataclass
class StepRecord:
    """One step's last execution. `facts`: what it found, as JSON values. `seconds`: of that execution."""

    done_at: str
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class CutoverState:
    """`method`: None until it is given or the rows are begun. `attempts`: how often the command was started.
    `rows_after_run`: the lake's newest run before ours; None: the rows were not begun."""

    connector: str
    source: str
    method: str | None
    started_at: str
    attempts: int = 0
    rows_after_run: int | None = None
    generation: str | None = None
    steps: dict[str, StepRecord] = field(default_factory=dict)
    finished_at: str | None = None

    def choose(self, method: str) -> None:
        """The rows are brought so from here on. What was sent in another way does not count."""
        if self.method != method:
            self.method = method
            self._forget_steps()

    def forget_rows(self) -> None:
        """The rows are to be sent again, with all that follows."""
        self.method = self.rows_after_run = self.generation = self.finished_at = None
        self._forget_steps()

    def _forget_steps(self) -> None:
        for step in ("rows", "lag", "reconcile"):
            self.steps.pop(step, None)


class StateFile:
    """The file of one connector; it is replaced whole and reaches the disk before `save` returns."""

    def __init__(self, folder: Path, connector: str) -> None:
        self._folder = folder
        self.path = folder / f"{connector}.json"

    def load(self) -> CutoverState | None:
        """What was saved; None if nothing was."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        steps = {name: StepRecord(**values) for name, values in saved.pop("steps").items()}
        return CutoverState(**saved, steps=steps)

    def save(self, state: CutoverState) -> None:
        """Keeps the state."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuses a second cut-over on this machine while one runs. Raises RetryableError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RetryableError("another cut-over runs on this machine", hint="see trs cutover --status") from None
            yield


def now() -> str:
    """The time as the file holds it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
