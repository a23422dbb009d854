"""Waits until the lake has read what the topics hold: until then a row on its way looks like one that differs."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from processors.errors import UnavailableError

_POLL_S = 0.5
_TOLD_AFTER_S = 3.0
_TOLD_EVERY_S = 15.0

Place = tuple[str, int]


class ReadPositions(Protocol):
    """How far the lake has read the topics."""

    def read(self) -> Mapping[Place, int]:
        """The next offset per topic and partition; without an entry nothing was read."""

    def last_commit(self) -> datetime | None:
        """When a stage last committed, None if none ever did."""


def left_to_read(positions: Mapping[Place, int], held: Mapping[Place, tuple[int, int]]) -> dict[Place, int]:
    """Records per partition that the lake has not read; `held`: the first offset and the end."""
    left = {place: end - max(positions.get(place, 0), start) for place, (start, end) in held.items()}
    return {place: records for place, records in left.items() if records > 0}


def wait_for_lake(
    positions: ReadPositions,
    held: Mapping[Place, tuple[int, int]],
    *,
    timeout_s: float,
    stopped: Callable[[], bool],
    report: Callable[[int, int], None],
    announce: Callable[[str], None],
) -> bool:
    """Returns True once the lake has read up to the ends in `held`, False when it was stopped.

    `report` is given the records that were read and all of them. Raises UnavailableError when in `timeout_s` seconds
    nothing at all was read.
    """
    began = moved = time.monotonic()
    told = began + _TOLD_AFTER_S - _TOLD_EVERY_S
    total: int | None = None
    before: int | None = None
    while True:
        left = left_to_read(positions.read(), held)
        records = sum(left.values())
        total = records if total is None else max(total, records)
        report(total - records, total)
        if not left:
            return True
        now = time.monotonic()
        if before is None or records < before:
            before, moved = records, now
        if now - moved >= timeout_s:
            raise UnavailableError(
                f"the lake has not read {_told(left)}, and for {timeout_s:.0f} s read nothing; {_alive(positions)}",
                hint="start `trs worker`, or see its log; rows on their way cannot be told from rows that differ",
            )
        if now - told >= _TOLD_EVERY_S and now - began >= _TOLD_AFTER_S:
            told = now
            announce(f"waiting for the lake to read {_told(left)}; {_alive(positions)}")
        if stopped():
            return False
        time.sleep(_POLL_S)


def _told(left: Mapping[Place, int]) -> str:
    topics: dict[str, int] = {}
    for (topic, _), records in left.items():
        topics[topic] = topics.get(topic, 0) + records
    return ", ".join(f"{records:,} records of {topic}" for topic, records in topics.items())


def _alive(positions: ReadPositions) -> str:
    """Running workers commit at least every half minute, even if there is nothing to do."""
    last = positions.last_commit()
    if last is None:
        return "no worker ever committed"
    return f"the last commit of a worker was {(datetime.now(UTC) - last).total_seconds():.0f} s ago"
