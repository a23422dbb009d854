"""Runs `trs reconcile` again and again, by the worker that owns bucket 0, in a process of its own: no epoch waits.

When the last check was stands in the lake, so it does not matter which worker that is. A check that could not be made
is tried again after the same time. A process that still runs when the worker stops, or loses the bucket, is ended.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import duckdb
import structlog

from app.durations import seconds
from app.lake_session import LakeSession
from app.scheduled_upkeep import end_process
from app.settings import Settings
from connectors.object_files import read_error
from processors.errors import DifferencesError, TrsError
from processors.lake_tables import RECONCILIATION

log = structlog.get_logger("trs.reconcile")
_POLL_S = 5.0
_LEAVE_S = 5.0
_MEMORY_SHARE = 4


class ScheduledCheck:
    """`run` is one of the worker's duties. `owns`: whether this worker owns bucket 0 now."""

    def __init__(self, settings: Settings, every: str, owns: Callable[[], bool]) -> None:
        self._settings = settings
        self._every = timedelta(seconds=seconds(every))
        self._owns = owns
        self._not_before = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Never returns; cancelled when the worker stops."""
        while True:
            await asyncio.sleep(min(_POLL_S, self._every.total_seconds()))
            try:
                if self._owns() and await asyncio.to_thread(self._due):
                    self._not_before = datetime.now(UTC) + self._every
                    await self._check()
            except (TrsError, duckdb.Error, OSError) as error:  # no reason for a worker to end
                log.warning("a reconciliation could not begin", reason=str(read_error(error) or error))

    def _due(self) -> bool:
        """Asks the lake only when the time may have come: another worker may have checked meanwhile."""
        if datetime.now(UTC) < self._not_before:
            return False
        with LakeSession(self._settings) as session:
            session.create_views([RECONCILIATION.name])
            ((last,),) = session.con.sql(f"SELECT max(checked_at) FROM {RECONCILIATION.name}").fetchall()
        if last is not None:
            self._not_before = last + self._every
        return datetime.now(UTC) >= self._not_before

    async def _check(self) -> None:
        log.info("reconciliation begins")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli.main", "reconcile", "--json"),
            env={
                **os.environ,
                "TRS_MEMORY_MB": str(max(64, self._settings.memory_mb // _MEMORY_SHARE)),
                "TRS_THREADS": "1",
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        told = asyncio.create_task(process.communicate())
        try:
            while not told.done():
                await asyncio.wait({told}, timeout=_POLL_S)
                if not self._owns() and not told.done():
                    log.info("reconciliation is given up: another worker owns bucket 0 now")
                    return
            _, errors = told.result()
            self._tell(process.returncode, errors.decode(errors="replace").strip().splitlines())
        finally:
            await end_process(process, told, leave_s=_LEAVE_S)

    def _tell(self, code: int | None, lines: list[str]) -> None:
        reason = lines[-1] if lines else ""
        if code == 0:
            log.info("reconciliation: source and lake are equal")
        elif code == DifferencesError.exit_code:
            log.warning("reconciliation: source and lake differ", reason=reason)
        else:
            log.warning("the reconciliation could not be made", code=code, reason=reason)
