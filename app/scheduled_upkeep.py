"""Runs `trs lake maintain` again and again, by the worker that owns bucket 0, in a process of its own: no epoch waits.

The process lets all others go first, has a quarter of the worker's memory for DuckDB, and takes no larger share of the
time than the budget: after a round that took a minute, 10 % leave nine in peace. A round begins when no records wait,
or, in a backlog that does not end, when it is six rounds late. Whatever becomes of it, the worker goes on: a failure is
logged, and shown on the worker's pages and by `trs status` until a round succeeds.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from app.durations import seconds
from app.settings import Settings
from processors.errors import RetryableError

log = structlog.get_logger("trs.upkeep")
_POLL_S = 2.0
_LEAVE_S = 2.0
"""How long a process that is told to end may take; rounds are safe to be killed at any moment."""
_MEMORY_SHARE = 4
_LATE_ROUNDS = 6
_LONGEST_S = 3600.0
"""A round begins nothing new after that long."""


@dataclass
class UpkeepState:
    """What the pages tell of upkeep; written by the event loop only."""

    running: bool = False
    last_at: datetime | None = None
    last_s: float | None = None
    last_actions: int = 0
    failure: str | None = None

    def as_json(self) -> dict[str, object]:
        """For the status page."""
        return {
            "running": self.running,
            "last_at": None if self.last_at is None else self.last_at.isoformat(timespec="seconds"),
            "last_s": None if self.last_s is None else round(self.last_s, 1),
            "last_actions": self.last_actions,
            "failure": self.failure,
        }


class ScheduledUpkeep:
    """`run` is one of the worker's duties. `owns`: whether this worker owns bucket 0 now; `idle`: no records wait."""

    def __init__(
        self, settings: Settings, state: UpkeepState, *, owns: Callable[[], bool], idle: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._state = state
        self._owns = owns
        self._idle = idle
        self._every_s = seconds(settings.upkeep_every)

    async def run(self) -> None:
        """Never returns; cancelled when the worker stops, which ends a round within seconds."""
        due_s = time.monotonic() + self._every_s
        while True:
            await asyncio.sleep(min(_POLL_S, self._every_s))
            late = time.monotonic() - due_s >= _LATE_ROUNDS * self._every_s
            if time.monotonic() < due_s or not self._owns() or not (self._idle() or late):
                continue
            began_s = time.monotonic()
            try:
                await self._round()
            except OSError as error:  # no process could be started: no reason for a worker to end
                self._fail(str(error))
            took_s = time.monotonic() - began_s
            self._state.last_at, self._state.last_s = datetime.now(UTC), took_s
            due_s = began_s + max(self._every_s, took_s * 100 / self._settings.upkeep_budget_percent)

    async def _round(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli.main", "lake", "maintain", "--background", "--json"),
            *("--budget-mb", str(self._settings.upkeep_budget_mb), "--budget-s", str(_LONGEST_S)),
            env={
                **os.environ,
                "TRS_MEMORY_MB": str(max(64, self._settings.memory_mb // _MEMORY_SHARE)),
                "TRS_THREADS": "1",
                "TOKIO_WORKER_THREADS": "2",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        told = asyncio.create_task(process.communicate())
        self._state.running = True
        try:
            while not told.done():
                await asyncio.wait({told}, timeout=_POLL_S)
                if not self._owns() and not told.done():
                    log.info("upkeep is given up: another worker owns bucket 0 now")
                    return
            answer, errors = told.result()
            self._tell(process.returncode, answer, errors.decode(errors="replace").strip().splitlines())
        finally:
            self._state.running = False
            await end_process(process, told, leave_s=_LEAVE_S)

    def _tell(self, code: int | None, answer: bytes, lines: list[str]) -> None:
        try:
            done = [d for d in json.loads(answer)["done"] if d["failure"] is None]
        except (ValueError, KeyError, TypeError):
            done = []
        self._state.last_actions = len(done)
        for each in done:
            if each["action"] != "vacuum" or each["files_before"]:
                log.info("upkeep", **{name: value for name, value in each.items() if value is not None})
        if code == 0:
            self._state.failure = None
        elif code == RetryableError.exit_code and not done and any("runs on this machine" in line for line in lines):
            log.info("upkeep was left to a round that runs on this machine")
        else:
            self._fail(lines[-1] if lines else f"exit code {code}")

    def _fail(self, reason: str) -> None:
        self._state.failure = reason.removeprefix("error: ")
        log.warning("upkeep failed; it is tried again", reason=self._state.failure)


async def end_process(
    process: asyncio.subprocess.Process, told: "asyncio.Task[tuple[bytes, bytes]]", *, leave_s: float
) -> None:
    """Ends a process that still runs, kindly first."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait({told}, timeout=leave_s)
        if not done:
            with suppress(ProcessLookupError):
                process.kill()
    told.cancel()
