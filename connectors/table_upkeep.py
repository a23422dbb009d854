"""What keeps one Delta table readable for long: retention, checkpoints, vacuum, and the clean-up of its log.

None of it changes a row, an application id, or the newest version's files, so workers, their recovery and readers of a
version within the retention go on as they were. Vacuum is a full one: the lite one of delta-rs forgets files whose
removal is told by no log entry any more.
"""

import json
import random
import time
from collections.abc import Mapping

from deltalake.exceptions import CommitFailedError

from connectors.lake import COMMIT_RETRIES, STATISTICS, WITHOUT_CLEANUP, LakeStore, table_properties, wrapped_errors
from connectors.table_folder import TableFolder
from processors.errors import RetryableError
from processors.lake_tables import LAKE_TABLES

CHECKPOINT_EVERY = 20
"""Commits beyond the last checkpoint at which upkeep makes one. Writers do so after ten; one that dies may not."""
_LAST_CHECKPOINT = "_delta_log/_last_checkpoint"
_HOURS_PER_DAY = 24


class TableUpkeep:
    """One table; `time_travel_days`: for how long versions stay readable that are not the newest any more."""

    def __init__(self, store: LakeStore, name: str, *, time_travel_days: int) -> None:
        self.name = name
        self._store = store
        self._days = time_travel_days
        self._folder = TableFolder(store.location, name)

    def wrong_properties(self) -> dict[str, str]:
        """Properties that are not set as they should be, with the values that they should have."""
        there = self._store.open(self.name).metadata().configuration
        wanted = table_properties(LAKE_TABLES[self.name], self._days)
        return {name: value for name, value in wanted.items() if there.get(name) != value}

    def set_properties(self, properties: Mapping[str, str]) -> None:
        """Sets them. Workers of this version go on; earlier ones end at their next commit and start again."""
        if not properties:
            return
        for _ in range(COMMIT_RETRIES):
            handle = self._store.open(self.name)
            try:
                with wrapped_errors(f"table {self.name}"):
                    handle.alter.set_table_properties(dict(properties), post_commithook_properties=WITHOUT_CLEANUP)
                return
            except RetryableError as error:
                if not isinstance(error.__cause__, CommitFailedError):
                    raise
                time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - somebody was first
        raise RetryableError(f"table {self.name}: its properties could not be set, it is busy")

    def hide_personal_statistics(self) -> None:
        """Sets only the property by which the log holds no values of personal columns, if that is missing."""
        wrong = self.wrong_properties()
        self.set_properties({name: wrong[name] for name in (STATISTICS,) if name in wrong})

    def last_checkpoint(self) -> int | None:
        """The version of the last checkpoint, None without any."""
        with wrapped_errors(f"table {self.name}"):
            told = self._folder.read(_LAST_CHECKPOINT)
        return None if told is None else int(json.loads(told)["version"])

    def checkpoint_due(self) -> bool:
        """Whether so many commits lie beyond the last checkpoint that opening the table takes long."""
        return int(self._store.open(self.name).version()) - (self.last_checkpoint() or 0) >= CHECKPOINT_EVERY

    def checkpoint(self) -> None:
        """Writes one of the newest version; application ids are in it."""
        handle = self._store.open(self.name)
        with wrapped_errors(f"checkpoint of {self.name}"):
            handle.create_checkpoint()

    def vacuum(self, *, dry_run: bool = False) -> int:
        """Deletes files that no version within the retention has, and log entries beyond it; returns how many files.

        Those are files removed longer ago than that, and files that no commit ever named and that are as old. What is
        being written just now is younger.
        """
        handle = self._store.open(self.name)
        with wrapped_errors(f"vacuum of {self.name}"):
            files = handle.vacuum(
                retention_hours=self._days * _HOURS_PER_DAY,
                dry_run=dry_run,
                enforce_retention_duration=not dry_run,  # a shorter one stands in no property yet
                full=True,
                post_commithook_properties=WITHOUT_CLEANUP,
            )
            if not dry_run:
                self._clean_log()
        return len(files)

    def _clean_log(self) -> None:
        """A checkpoint comes first: without one, a log that nobody writes could not be cleaned up."""
        handle = self._store.open(self.name)
        if handle.version() > (self.last_checkpoint() or 0):
            handle.create_checkpoint()
        handle.cleanup_metadata()
