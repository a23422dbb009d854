"""Where to begin to read a partition: the lake's word, checked against what Kafka holds (R9)."""

from dataclasses import dataclass

from processors.errors import OffsetGapError
from processors.ports import StoredPosition

_HINT = "find out what became of the records, then `trs worker --accept-gap` goes on with what Kafka still holds"


@dataclass(frozen=True)
class PartitionLog:
    """What Kafka holds of a topic-partition: offsets [`start`, `end`) of the topic with this id."""

    topic: str
    partition: int
    start: int
    end: int
    topic_id: str


def gap(stored: StoredPosition | None, log: PartitionLog) -> str | None:
    """Why reading on would miss records silently, as a sentence; None when nothing is missing.

    | the lake's entry      | Kafka                           | outcome                        |
    | --------------------- | ------------------------------- | ------------------------------ |
    | none                  | the log starts at 0             | read from 0                    |
    | none                  | the log starts above 0          | gap: nobody read the first     |
    | of another topic id   | whatever                        | gap: the topic was made anew   |
    | below the log's start | records were deleted            | gap                            |
    | above the log's end   | records that we read are gone   | gap: the broker lost or reset  |
    | in [start, end]       |                                 | read from the entry            |
    """
    where = f"{log.topic}-{log.partition}"
    held = f"Kafka holds [{log.start}, {log.end})"
    if stored is None:
        if log.start == 0:
            return None
        return f"{where}: nothing was read of it yet, but {held}: offsets [0, {log.start}) are gone"
    if stored.topic_id != log.topic_id:
        return (
            f"{where}: the lake stands at offset {stored.next_offset} of topic id {stored.topic_id}, "
            f"but the topic was made anew with id {log.topic_id}; {held}"
        )
    if stored.next_offset < log.start:
        return (
            f"{where}: the lake stands at offset {stored.next_offset}, "
            f"but {held}: offsets [{stored.next_offset}, {log.start}) are gone"
        )
    if stored.next_offset > log.end:
        return f"{where}: the lake stands at offset {stored.next_offset}, but {held}: the broker lost records"
    return None


def start_offset(stored: StoredPosition | None, log: PartitionLog) -> int:
    """The offset to read next. Raises OffsetGapError where `gap` finds one."""
    found = gap(stored, log)
    if found is not None:
        raise OffsetGapError(found, hint=_HINT)
    return 0 if stored is None else stored.next_offset


def start_offset_accepting_gap(stored: StoredPosition | None, log: PartitionLog) -> int:
    """The offset to read next when a person accepted the gap: the first one that Kafka holds, so that nothing more is
    missed; rows read a second time lose by their order (R1)."""
    return log.start if gap(stored, log) is not None else start_offset(stored, log)
