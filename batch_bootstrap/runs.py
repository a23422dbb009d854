"""Bootstrap runs: the lake's register of them (R3), and how far one has come, kept on disk for a resume."""

import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from batch_bootstrap.kept_files import keep
from connectors.source_rows import BinlogPosition, Chunk, Resume
from processors.errors import UsageError
from processors.ports import OpenRun

_WORK = "compare-"
_LOCK = "in-use"
DIFF = "diff"
"""`kind` of a run that compares; snapshots have none."""


class RunRegistry(Protocol):
    """The lake's register of runs: the control log."""

    def open_run(self, source_name: str, detail: Mapping[str, Any]) -> int:
        """Registers a run and returns its number, which is greater than every earlier one."""

    def close_run(self, run: int, detail: Mapping[str, Any]) -> None:
        """Marks a run as ended."""

    def open_runs(self) -> list[OpenRun]:
        """Runs that were registered and not ended, oldest first."""

    def generation(self) -> str:
        """The lake's generation."""


def give_up_diffs(registry: RunRegistry) -> list[OpenRun]:
    """Ends diffs that are open and returns the runs that still are.

    Of a diff that was killed nothing is to be resumed, and one that still runs is fenced by the next producer.
    """
    open_runs = registry.open_runs()
    for run in open_runs:
        if run.detail.get("kind") == DIFF:
            registry.close_run(run.run, {"abandoned": True})
    return [run for run in open_runs if run.detail.get("kind") != DIFF]


def begin_diff(registry: RunRegistry, source_name: str, description: str) -> int:
    """Registers a diff and returns its number. Raises UsageError while a snapshot is unfinished."""
    for run in give_up_diffs(registry):
        raise UsageError(
            f"run {run.run} of {run.detail.get('source')} is open",
            hint="finish it with `trs bootstrap snapshot`, or abandon it with --restart",
        )
    return registry.open_run(source_name, {"source": description, "kind": DIFF})


@dataclass
class TableProgress:
    """What of one table was sent and acknowledged. `last_key` is where a database is read on."""

    chunks: int = 0
    rows: int = 0
    rejects: int = 0
    orphans: int = 0
    returns: int = 0
    seconds: float = 0.0
    done: bool = False
    last_key: list[Any] | None = None

    def resume(self) -> Resume | None:
        """Where to read on; None: from the start."""
        return Resume(self.chunks, None if self.last_key is None else tuple(self.last_key)) if self.chunks else None

    def add(self, chunk: Chunk) -> None:
        """Counts a chunk that was acknowledged."""
        self.chunks = chunk.number
        self.rows += chunk.rows.num_rows
        self.rejects += len(chunk.rejects)
        self.orphans += chunk.orphans
        self.returns += chunk.returns
        self.last_key = None if chunk.last_key is None else list(chunk.last_key)


@dataclass
class RunProgress:
    """How far a run has come. Saved after each acknowledged transaction: a chunk may be sent twice, never left out."""

    run: int
    tables: dict[str, TableProgress] = field(default_factory=dict)
    first_position: BinlogPosition | None = None
    last_position: BinlogPosition | None = None

    def table(self, name: str) -> TableProgress:
        """The table's progress, which begins with nothing."""
        return self.tables.setdefault(name, TableProgress())

    def add(self, chunk: Chunk) -> None:
        """Counts a chunk that was acknowledged."""
        self.table(chunk.table.name).add(chunk)
        if chunk.position is not None:
            self.first_position = self.first_position or chunk.position
            self.last_position = chunk.position


def check_folder(folder: Path) -> None:
    """Makes the folder of progress files and writes to it, so that a run is not begun that could not be kept.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A folder for rows while they are compared, removed at the end; those of killed processes are removed before.

    They hold personal data. Whether a folder is in use is told by a lock that ends with its process; folders come and
    go by turns, so that none is taken for left over before it has its lock, or while it goes.
    """
    with _turn(parent):
        for left in parent.glob(f"{_WORK}*"):
            with suppress(FileNotFoundError, BlockingIOError), (left / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_WORK, dir=parent))
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield folder
        finally:
            with _turn(parent):
                shutil.rmtree(folder)


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    with (parent / "turn").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class ProgressFile:
    """One run's progress in a folder; a file is replaced whole and reaches the disk before `save` returns."""

    def __init__(self, folder: Path, generation: str, run: int) -> None:
        self.path = folder / f"{generation[:12]}-{run}.json"
        self._run = run

    def load(self) -> RunProgress:
        """What was saved; without a file nothing is known, so everything is sent again."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return RunProgress(self._run)
        return RunProgress(
            self._run,
            {name: TableProgress(**values) for name, values in saved["tables"].items()},
            *(None if saved[k] is None else BinlogPosition(**saved[k]) for k in ("first_position", "last_position")),
        )

    def save(self, progress: RunProgress) -> None:
        """Keeps the progress."""
        keep(self.path, asdict(progress))

    def remove(self) -> None:
        """Forgets the progress of a run that has ended."""
        self.path.unlink(missing_ok=True)
