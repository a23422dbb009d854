"""One embedded stack below a TRS_HOME: starts its parts in parallel, tells their state, ends them.

Kafka, database and S3 server always belong to it. Optional parts are clients of these: they are started after them,
only when asked for, and then belong to the stack until it is ended, before the others.

Files: `devstack/<part>/` (data, log, process record), `devstack/ports.json`, `devstack/env.json` (settings for the
commands, while the stack is up) and `devstack/lock` (one `up` or `down` at a time).
"""

import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock

from devstack import ports, processes
from devstack.connect import Connect
from devstack.declared import Endpoints
from devstack.kafka import Kafka
from devstack.mariadb import MariaDb
from devstack.part import Advance, Part
from devstack.s3 import S3
from devstack.trino import Trino
from processors.errors import FullDiskError, UnavailableError

PARTS: tuple[type[Part], ...] = (Kafka, MariaDb, S3)
OPTIONAL_PARTS: tuple[type[Part], ...] = (Connect, Trino)
ENVIRONMENT_FILE = "env.json"
_POLL_S = 0.05
_WIPED_S = 2.0
"""How long a part has to end whose data is deleted anyway."""
_FIRST_START_BYTES = 200_000_000
"""MariaDB's system tables and logs take most of it."""
_START_BYTES = 20_000_000


class PartFailedError(UnavailableError):
    """A part did not start. `log_tail` holds the last lines that it wrote."""

    def __init__(self, part: str, reason: str, *, log: Path) -> None:
        super().__init__(f"{part} {reason}", hint=f"its log is {log}")
        self.part = part
        self.log_tail = processes.tail(log)


class State(StrEnum):
    """State of a part: crashed means that nobody stopped it and its process is gone."""

    RUNNING = "running"
    CRASHED = "crashed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class PartStatus:
    """What `status` tells of a part. `memory_bytes` is resident memory; `log_tail` is set for a crashed part."""

    name: str
    state: State
    port: int | None
    pid: int | None
    memory_bytes: int | None
    log: Path
    log_tail: str


class Stack:
    """The stack whose files live in `home`/devstack."""

    def __init__(self, home: Path) -> None:
        self.folder = home.absolute() / "devstack"

    @property
    def environment_file(self) -> Path:
        return self.folder / ENVIRONMENT_FILE

    def up(
        self,
        *,
        optional: Collection[str] = (),
        download: Callable[[int], Advance] = lambda _total: lambda _count: None,
        report: Callable[[str, str], None] = lambda _part, _message: None,
    ) -> dict[str, str]:
        """Starts what does not run, with the named optional parts, and returns the settings that lead to the stack.

        `download` is called with the number of bytes to fetch, if any, and returns what takes the progress; `report`
        is told (part, message), from several threads. Raises FullDiskError before anything starts, PartFailedError for
        the first part that does not start; the others stay up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        first = not any((self.folder / p.name).exists() for p in PARTS)
        check_room(self.folder, _FIRST_START_BYTES if first else _START_BYTES)
        with FileLock(self.folder / "lock"):
            known = self._parts(optional=optional)
            running = [p for p in known if processes.find(p.record) is not None]
            numbers = ports.assign(
                self.folder / "ports.json",
                needed=[n for p in known for n in p.port_names],
                in_use=[n for p in running for n in p.port_names],
            )
            parts = self._parts(numbers, optional=optional)
            missing = sum(p.download_bytes() for p in parts)
            advance: Advance = download(missing) if missing else lambda _count: None
            for wave in _waves(parts):
                with ThreadPoolExecutor(len(wave)) as pool:
                    starts = [pool.submit(start_part, p, advance, report) for p in wave]
                for start in starts:
                    start.result()
            environment = Endpoints(
                kafka=numbers["kafka"],
                database=numbers["database"],
                s3=numbers["s3"],
                connect=next((p.port for p in parts if p.name == Connect.name), None),
            ).environment
            self._write_environment(environment, parts)
        return environment

    def down(self, *, wipe: bool) -> list[str]:
        """Ends the parts that this stack started and waits for them; returns the names of those that ran.

        `wipe` deletes the data of all parts together: topics, database and lake belong to each other.
        """
        if not self.folder.exists():
            return []
        with FileLock(self.folder / "lock"):
            self.environment_file.unlink(missing_ok=True)
            ended: list[str] = []
            for wave in reversed(_waves(self._parts())):
                with ThreadPoolExecutor(len(wave)) as pool:
                    lived = pool.map(
                        lambda p: processes.stop(p.record, timeout_s=_WIPED_S if wipe else p.stop_timeout_s), wave
                    )
                ended += [p.name for p, alive in zip(wave, lived, strict=True) if alive]
            if wipe:
                for kind in (*PARTS, *OPTIONAL_PARTS):
                    shutil.rmtree(self.folder / kind.name, ignore_errors=True)
        return ended

    def status(self) -> list[PartStatus]:
        """The state of every part; an optional one is listed from its start until the stack is ended."""
        return [_status(p) for p in self._parts()]

    def parts(self) -> list[Part]:
        """The servers, each with the port that it has; for tests that restart one."""
        return self._parts()

    def environment(self) -> dict[str, str] | None:
        """The settings that lead to the stack, or None if it is not up."""
        try:
            values = json.loads(self.environment_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {k: v for k, v in values.items() if k.startswith("TRS_")}

    def _parts(self, numbers: dict[str, int] | None = None, *, optional: Collection[str] = ()) -> list[Part]:
        """The parts that always belong to a stack, the optional ones that were started, and the named ones."""
        known = ports.remembered(self.folder / "ports.json") if numbers is None else numbers
        extra = [part(self.folder, known) for part in OPTIONAL_PARTS]
        return [part(self.folder, known) for part in PARTS] + [
            part for part in extra if part.name in optional or part.record.exists()
        ]

    def _write_environment(self, environment: dict[str, str], parts: Sequence[Part]) -> None:
        alive = [process.pid for p in parts if (process := processes.find(p.record)) is not None]
        temporary = self.environment_file.with_suffix(".new")
        temporary.write_text(json.dumps({**environment, "pids": alive}, indent=1), encoding="utf-8")
        temporary.replace(self.environment_file)


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raises FullDiskError when the folder's disk has less room than that: the parts' own words for it are many."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FullDiskError(
            f"{folder}: {free / 1e6:.0f} MB are free, a start needs {needed_bytes / 1e6:.0f}",
            hint="free some, or let TRS_HOME name a folder elsewhere",
        )


def _waves(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that may start side by side, in the order of starting; ending goes the other way."""
    optional = [p for p in parts if isinstance(p, OPTIONAL_PARTS)]
    return [wave for wave in ([p for p in parts if p not in optional], optional) if wave]


def start_part(
    part: Part, advance: Advance = lambda _count: None, report: Callable[[str, str], None] = lambda _part, _text: None
) -> None:
    """Starts a part that does not run and waits until it answers. Raises PartFailedError."""
    if processes.find(part.record) is not None:
        _wait_until_it_answers(part)
        report(part.name, "was running")
        return
    if part.record.exists():
        report(part.name, f"had crashed: {part.after_crash}")
    part.folder.mkdir(parents=True, exist_ok=True)
    part.fetch(advance)
    began = time.monotonic()
    command = part.prepare()
    processes.spawn(command, folder=part.folder, record=part.record, log=part.log, env=part.environment())
    _wait_until_it_answers(part)
    report(part.name, f"started in {time.monotonic() - began:.1f} s")


def _wait_until_it_answers(part: Part) -> None:
    deadline = time.monotonic() + part.ready_timeout_s
    while not part.answers():
        if processes.find(part.record) is None:
            raise PartFailedError(part.name, "ended while it started", log=part.log)
        if time.monotonic() > deadline:
            raise PartFailedError(part.name, f"did not answer within {part.ready_timeout_s:.0f} s", log=part.log)
        time.sleep(_POLL_S)


def _status(part: Part) -> PartStatus:
    process = processes.find(part.record)
    absent = State.CRASHED if part.record.exists() else State.STOPPED
    state = absent if process is None else State.RUNNING
    return PartStatus(
        name=part.name,
        state=state,
        port=part.port,
        pid=None if process is None else process.pid,
        memory_bytes=None if process is None else processes.memory_bytes(process),
        log=part.log,
        log_tail=processes.tail(part.log) if state is State.CRASHED else "",
    )
