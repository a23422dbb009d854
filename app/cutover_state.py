"""What a cut-over has done so far, on disk: one JSON file per connector, which in the end is its report."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batch_bootstrap.kept_files import alone, keep


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

    def load(self, announce: Callable[[str], None] = lambda _line: None) -> CutoverState | None:
        """What was saved; None if nothing was, or what is no state of this version, which is announced."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            steps = {name: StepRecord(**values) for name, values in saved.pop("steps").items()}
            return CutoverState(**saved, steps=steps)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            announce(f"{self.path} is not of this version: it does not count")
            return None

    def save(self, state: CutoverState) -> None:
        """Keeps the state."""
        keep(self.path, asdict(state))

    def alone(self) -> AbstractContextManager[None]:
        """Refuses a second cut-over on this machine while one runs. Raises RetryableError."""
        return alone(self._folder / "lock", what="cut-over", hint="see trs cutover --status")


def now() -> str:
    """The time as the file holds it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
