"""What the worker that owns bucket 0 knows of the whole lake: tables, what waits for a fold, checks, upkeep.

It looks once in TRS_LAKE_LOOK_S, in a thread of its own, so that no page view and no scrape asks the store; the small
tables of results are read again only when something was committed to them. The other workers say nothing of it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import duckdb
import structlog

from app.findings import LastCheck, LastUpkeep, TableReconciled, last_checks, last_reconciled, last_upkeep
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.lake import LakeStore
from connectors.object_files import read_error
from connectors.table_looks import TableLook, TableLooks
from processors.errors import TrsError
from processors.lake_tables import QUALITY_RESULTS, RECONCILIATION, UPKEEP

log = structlog.get_logger("trs.lake")
_RESULTS = (RECONCILIATION.name, QUALITY_RESULTS.name, UPKEEP.name)
_POLL_S = 0.5


@dataclass(frozen=True)
class LakeLook:
    """The lake at one time."""

    at: datetime
    tables: tuple[TableLook, ...]
    reconciled: tuple[TableReconciled, ...]
    checks: tuple[LastCheck, ...]
    upkeep: tuple[LastUpkeep, ...]

    @property
    def differing(self) -> dict[str, int]:
        """Rows that differed from the source and were not corrected, by table."""
        return {r.table: max(0, r.differing - r.repaired) for r in self.reconciled}

    @property
    def failed_checks(self) -> tuple[LastCheck, ...]:
        """Checks that failed when they were made last."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def failed_upkeep(self) -> tuple[LastUpkeep, ...]:
        """What upkeep could not do when it tried last."""
        return tuple(done for done in self.upkeep if done.failure is not None)

    def as_json(self) -> dict[str, object]:
        """For `/status.json`: names, counts and times. What a check says of rows, and addresses, are left out."""
        return {
            "at": _iso(self.at),
            "tables": [asdict(table) for table in self.tables],
            "reconciled": [
                {
                    "table": r.table,
                    "checked_at": _iso(r.checked_at),
                    "compared": r.compared,
                    "differing": r.differing,
                    "repaired": r.repaired,
                }
                for r in self.reconciled
            ],
            "checks": [
                {"name": c.name, "at": _iso(c.at), "passed": c.passed, "holds_fold": c.holds_fold} for c in self.checks
            ],
            "upkeep": [
                {"action": u.action, "table": u.table, "at": _iso(u.at), "failure": u.failure} for u in self.upkeep
            ],
        }


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class LakeWatch:
    """Looks from `start` to `stop`. `owns`: whether this worker owns bucket 0 now.

    `last` is the last look, None before it and while another worker looks; `failure` why the last try failed.
    """

    def __init__(self, settings: Settings, *, owns: Callable[[], bool]) -> None:
        self._settings = settings
        self._owns = owns
        self._tables = TableLooks(LakeStore(lake_location(settings)))
        self._versions: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lake-watch", daemon=True)
        self.last: LakeLook | None = None
        self.failure: str | None = None

    @property
    def at_rest(self) -> bool:
        """Whether no look is under way any more, or ever was."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """The first look follows once the worker owns bucket 0."""
        self._thread.start()

    def stop(self) -> None:
        """No look begins any more; one that is under way is not waited for: the store may hang."""
        self._ended.set()

    def _run(self) -> None:
        try:
            self._look_again_and_again()
        except Exception as error:
            log.error("a fault of the program ended the looks at the lake", exc_info=error)
            self.last, self.failure = None, f"a fault of the program ended the looks: {error}"

    def _look_again_and_again(self) -> None:
        due_s = 0.0
        while not self._ended.wait(_POLL_S):
            if not self._owns():
                self.last, self.failure, due_s = None, None, 0.0
            elif time.monotonic() >= due_s:
                due_s = time.monotonic() + self._settings.lake_look_s
                self.look()

    def look(self) -> None:
        """Looks once. A lake that cannot be read is told on the page: no reason for a worker to end."""
        try:
            self.last, failure = self._read(), None
        except (TrsError, duckdb.Error, OSError) as error:
            failure = str(read_error(error) or error)
        if failure is not None and self.failure is None:
            log.warning("the lake's tables could not be looked at; it is tried again", reason=failure)
        self.failure = failure

    def _read(self) -> LakeLook:
        at, tables, last = datetime.now(UTC), self._tables.read(), self.last
        versions = {table.name: table.version for table in tables if table.name in _RESULTS}
        if last is not None and versions == self._versions:
            return LakeLook(at, tables, last.reconciled, last.checks, last.upkeep)
        with LakeSession(self._settings) as session:
            session.create_views(_RESULTS)
            found = LakeLook(at, tables, last_reconciled(session), last_checks(session), last_upkeep(session))
        self._versions = versions
        return found
