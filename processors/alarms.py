"""Alarms: what needs a person while the worker goes on, because the source is not as it is declared.

Records that lack a column that must be there, or come from a server whose name is not declared, wait in the dead
letters; those of other tables are applied. An alarm
lasts as long as such letters are open (`trs status`), or, in a worker, until a good row of the topic arrives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from processors.inbox import Chunk
from processors.reasons import Reason


class AlarmKind(StrEnum):
    """What there are alarms of; docs/runbooks/index.md has a line for each."""

    MISSING_COLUMN = Reason.MISSING_COLUMN
    UNKNOWN_SOURCE = Reason.UNKNOWN_SOURCE
    UNKNOWN_TABLE = Reason.UNKNOWN_TABLE
    SOURCE_TABLE = "source_table"
    CONNECT_AWAY = "connect_away"
    CONNECTOR_STANDS = "connector_stands"
    BINLOG_GONE = "binlog_gone"
    RECONCILE_OVERDUE = "reconcile_overdue"


STRUCTURAL: Mapping[str, str] = {
    Reason.MISSING_COLUMN: "declare its new name as an alias, or the column as optional, and"
    " `trs dead-letters replay --reason missing_column`; or put it back, `trs bootstrap snapshot`, and discard them",
    Reason.UNKNOWN_SOURCE: "add the source's name at the end of TRS_SOURCE_NAMES, start all workers anew, and"
    " `trs dead-letters replay --reason unknown_source`",
    Reason.UNKNOWN_TABLE: "lead each table to the topic of its own name, `trs bootstrap snapshot`, and discard them",
}
"""Reasons that speak of the source's structure, not of one record, with what to do."""


@dataclass(frozen=True)
class Alarm:
    """`subject`: the topic or table concerned; `message`: what is the matter; `hint`: what to do next."""

    kind: AlarmKind
    subject: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message} ({self.hint}) [{self.kind}]"


def parked_alarm(topic: str, reason: str, detail: str, records: int) -> Alarm:
    """The alarm of records that wait in the dead letters for a structural reason; `detail` is the letters' own."""
    wait = "1 record waits" if records == 1 else f"{records} records wait"
    return Alarm(AlarmKind(reason), topic, f"{wait} in the dead letters: {detail}", STRUCTURAL[reason])


class StructureWatch:
    """Which structural alarms one worker has seen of its topics, since it started. Used by one thread at a time."""

    def __init__(self) -> None:
        self._parked: dict[tuple[str, str, str], int] = {}

    @property
    def alarms(self) -> list[Alarm]:
        """Those that last, by topic."""
        return [parked_alarm(*what, records) for what, records in sorted(self._parked.items())]

    def look(self, chunks: Iterable[Chunk]) -> list[Alarm]:
        """Takes what was just committed; returns the alarms that are new."""
        found: Counter[tuple[str, str, str]] = Counter()
        good = set()
        for chunk in chunks:
            found.update({(chunk.topic, *what): records for what, records in _structural(chunk.dead).items()})
            if _has_live_row(chunk.rows):
                good.add(chunk.topic)
        # What arrives together has no order between partitions: a topic of which anything is refused is not well again.
        well = good - {topic for topic, _, _ in found}
        self._parked = {what: records for what, records in self._parked.items() if what[0] not in well}
        raised = [what for what in found if what not in self._parked]
        for what, records in found.items():
            self._parked[what] = self._parked.get(what, 0) + records
        return [parked_alarm(*what, self._parked[what]) for what in raised]


def _structural(dead: pa.Table) -> dict[tuple[str, str], int]:
    """How many letters there are of each structural (reason, detail)."""
    if dead.num_rows == 0:
        return {}
    letters = dead.filter(pc.is_in(dead["reason"], pa.array([str(r) for r in STRUCTURAL], pa.string())))
    counts = letters.group_by(["reason", "detail"]).aggregate([([], "count_all")]).to_pylist()
    return {(c["reason"], c["detail"]): c["count_all"] for c in counts}


def _has_live_row(rows: pa.Table | None) -> bool:
    """Whether there is a row that is no delete: a delete needs no more than its key."""
    if rows is None or rows.num_rows == 0 or "is_delete" not in rows.schema.names:
        return False
    return not pc.all(rows["is_delete"]).as_py()
