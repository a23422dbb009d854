"""How far the lake has read the topics: the positions that the stages commit with their logs (R5)."""

from collections.abc import Mapping
from datetime import UTC, datetime

from deltalake import DeltaTable

from connectors.delta_log import last_commits
from connectors.lake import LakeStore, wrapped_errors
from processors.lake_tables import STAGE_LOGS
from processors.tables import DERIVED_TOPICS, STAGE_TOPICS, topic_of

_READ_BY: dict[str, tuple[str, ...]] = {
    STAGE_LOGS[stage].log: read
    for stage, topics in STAGE_TOPICS.items()
    if (read := tuple(topic for topic in topics if topic not in DERIVED_TOPICS)) and stage in STAGE_LOGS
}


_UPKEEP_COMMITS = 20
"""More than upkeep makes in a row while a worker runs."""


def _of_a_stage(handle: DeltaTable, limit: int) -> list[int]:
    """The times of the last commits, in ms since 1970, newest first, those of upkeep left out."""
    return [c["timestamp"] for c in last_commits(handle, limit) if "trs" in c]


class LakePositions:
    """The positions as of now, again and again; after the first look only new commits are read."""

    def __init__(self, store: LakeStore, topic_prefix: str, partitions: int) -> None:
        self._store = store
        self._logs = {name: store.fenced(name) for name in _READ_BY}
        self._places = {
            name: {
                f"offset:{topic}:{bucket}": (topic, bucket)
                for topic in (topic_of(topic_prefix, read) for read in topics)
                for bucket in range(partitions)
            }
            for name, topics in _READ_BY.items()
        }

    def read(self) -> Mapping[tuple[str, int], int]:
        """The next offset per topic and partition, documents left out; none where nothing was read."""
        return {
            places[app_id]: offset
            for name, places in self._places.items()
            for app_id, offset in self._logs[name].stored(tuple(places)).items()
        }

    def last_commit(self) -> datetime | None:
        """When a stage last committed, by the clock of its writer."""
        times = []
        for name in _READ_BY:
            with wrapped_errors(f"table {name}"):
                handle = self._store.open(name)
                times += next(filter(None, (_of_a_stage(handle, limit) for limit in (1, _UPKEEP_COMMITS))), [])
        return datetime.fromtimestamp(max(times) / 1000, UTC) if times else None
