"""What earlier commits of a stage said of themselves, read when buckets are gained: cursors' metadata, topic ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from processors.lake_tables import EPOCHS
from processors.ports import Lake

RECENT_COMMITS = (20, 500)
"""How many commits are looked at: nearly always few, many after a long absence."""


class RecentCommits:
    """The newest commits of one stage's log, as they stood when they were first asked for."""

    def __init__(self, lake: Lake, *, stage: str, log_name: str) -> None:
        self._lake = lake
        self._stage = stage
        self._log_name = log_name
        self._read: Sequence[Mapping[str, Any]] = ()

    def metadata_of(self, bucket: int, epoch: int | None) -> Mapping[str, Any]:
        """The metadata of the commit in which a gained bucket reached the epoch (None: its latest before this opening).

        Empty when that commit is too long ago.
        """
        for limit in RECENT_COMMITS:
            if len(self._read) < limit:
                self._read = self._lake.recent_commits(self._log_name, limit)
            for commit in self._read:
                reached = commit.get("epochs", {}).get(str(bucket))
                if commit.get("stage") != self._stage or reached is None:
                    continue
                if reached == epoch or (epoch is None and commit["kind"] == "epoch"):
                    return commit
            if len(self._read) < limit:
                break  # the whole log was read
        return {}

    def topic_ids(self, con: duckdb.DuckDBPyConnection, buckets: Sequence[int]) -> dict[str, str]:
        """The topic ids that the last epochs of these buckets spoke of."""
        told = next((found["topic_ids"] for found in (self.metadata_of(b, None) for b in buckets) if found), None)
        return dict(told) if told is not None else self._topic_ids_in_epochs(con, buckets)

    def _topic_ids_in_epochs(self, con: duckdb.DuckDBPyConnection, buckets: Sequence[int]) -> dict[str, str]:
        """The same by the rows of `epochs`: the commits are too long ago, or Delta's log was cleaned up since."""
        if not buckets:
            return {}
        rows = con.sql(
            f"""
            SELECT o.topic, arg_max(o.topic_id, epoch)
            FROM (
              SELECT epoch, unnest(offsets) AS o FROM {self._lake.relation(EPOCHS.name)}
              WHERE stage = $stage AND bucket IN ({", ".join(map(str, buckets))})
            )
            GROUP BY o.topic
            """,
            params={"stage": self._stage},
        ).fetchall()
        return dict(rows)
