"""Delta Lake: tables, errors, fenced appends for the worker.

A *fenced* table is written through a handle that nothing but its own commits advances (R8). Every commit carries the
application ids of all buckets of the writer; Delta refuses a commit when another writer has committed one of the ids
since the handle's version, and that refusal is the fence.
"""

import json
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from connectors.delta_log import is_table, last_commits
from processors.errors import (
    AccessDeniedError,
    FencedError,
    FullDiskError,
    MovedError,
    RetryableError,
    StateUnknownError,
    TrsError,
    UnavailableError,
    UsageError,
)
from processors.lake_tables import CONTROL_LOG, LAKE_TABLES, LakeTable

COMMIT_RETRIES = 30
WRITER = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=122_880)
"""How files are written: at this level in the time of Snappy and half the size. A row group is held in memory until it
is complete; its size is DuckDB's own, which reads them side by side."""
WITHOUT_CLEANUP = PostCommitHookProperties(cleanup_expired_logs=False)
"""For commits on the path of epochs, and of upkeep: to clean up, delta-rs lists the whole log, at every checkpoint.
Upkeep does it once a day (connectors/table_upkeep.py)."""
_ORNAMENTS = re.compile("\x1b\\[[0-9;]*m|↳")
"""Colours and arrows with which delta-rs prints the causes of an error, each on a line of its own."""
_LONGEST_MESSAGE = 300
_CONTROL_APP = "control"
_HISTORY_DEPTH = 500
_FOLLOWED = 50
TIME_TRAVEL_DAYS = 7
STATISTICS = "delta.dataSkippingStatsColumns"
"""Property of a table: the columns of which its log holds least and greatest values."""
REOPEN_AFTER_S = 3600.0
"""A writer's handle that was not used for so long is opened anew, before the log is cleaned up behind it."""


def table_properties(table: LakeTable, time_travel_days: int) -> dict[str, str]:
    """Delta's properties of a table: how long versions can be read that are not the newest any more.

    Of a table with personal data also of which columns the log holds least and greatest values: of no personal one.
    """
    # Of other units than days, weeks and hours delta-rs takes no notice.
    span = f"interval {time_travel_days} days"
    properties = {
        "delta.checkpointInterval": "10",
        "delta.logRetentionDuration": span,
        "delta.deletedFileRetentionDuration": span,
    }
    if table.personal:
        shown = [n for n in table.schema.names if n not in (*table.personal_columns, *table.partition_by)]
        properties[STATISTICS] = ",".join(shown)
    return properties


_MISREAD = re.compile(r"[\[\]^|*?\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
"""Parts of a pattern, and what delta-rs refuses, decodes or takes for a separator in a path."""


@dataclass(frozen=True)
class LakeLocation:
    """Where a lake is: `s3://bucket/prefix` or a folder, and delta-rs storage options (empty on AWS with a role)."""

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises UsageError for a name that would lead elsewhere, or end delta-rs in a panic."""
        misread = _MISREAD.search(self.uri)
        if misread is not None:
            raise UsageError(
                f"the lake's place {self.uri!r} has {misread[0]!r} in it, which tools take for something else",
                hint="name another in TRS_LAKE",
            )

    def table(self, name: str) -> str:
        return f"{self.uri}/{name}"


def wrap_error(error: Exception, what: str) -> TrsError:
    """A library's error as one of ours; the message names the table, never a credential."""
    text = str(error)
    lower = text.lower()
    if "no space left" in lower or "os error 28" in lower:
        return FullDiskError(f"{what}: no space left on the device", hint="free some, then start again")
    if any(word in lower for word in ("accessdenied", "invalidaccesskeyid", "signaturedoesnotmatch", "forbidden")):
        return AccessDeniedError(f"{what}: the object store refuses access", hint="check TRS_AWS_* or the task's role")
    if any(
        word in lower
        for word in ("error sending request", "connection refused", "timed out", "timeout", "nosuchbucket")
    ):
        return UnavailableError(
            f"{what}: the object store does not answer as expected", hint="check TRS_LAKE, TRS_AWS_ENDPOINT"
        )
    if any(
        word in lower for word in ("could not create local directory", "permission denied", "read-only file system")
    ):
        return AccessDeniedError(f"{what}: the folder cannot be written", hint="check TRS_LAKE and who may write there")
    line = " ".join(_ORNAMENTS.sub(" ", text).split())[:_LONGEST_MESSAGE]
    return RetryableError(f"{what}: {line or type(error).__name__}")


@contextmanager
def wrapped_errors(what: str) -> Iterator[None]:
    """Turns the errors of delta-rs into ours; `what` names the table."""
    try:
        yield
    except (DeltaError, OSError) as error:
        raise wrap_error(error, what) from error


class LakeStore:
    """The Delta tables below one location."""

    def __init__(self, location: LakeLocation) -> None:
        self.location = location
        self._options = dict(location.storage_options) or None
        self.conflicts: Counter[tuple[str, str]] = Counter()
        """Commits of this store's writers that were refused, by table and outcome: `again`, `fenced` or `moved`."""

    def create(self) -> None:
        """Makes every declared table that is missing, and adds the columns that an earlier version did not have."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(self.ensure, LAKE_TABLES.values()))

    def present(self) -> frozenset[str]:
        """Names of the declared tables that there are: an earlier version made fewer."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            names = list(LAKE_TABLES)
            there = pool.map(self.has, names)
            return frozenset(name for name, found in zip(names, there, strict=True) if found)

    def has(self, name: str) -> bool:
        """Whether there is this table."""
        with wrapped_errors(f"table {name}"):
            return is_table(self.location.table(name), self._options)

    def exists(self) -> bool:
        """Whether the lake was ever created."""
        try:
            return is_table(self.location.table(CONTROL_LOG.name), self._options)
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"lake {self.location.uri}") from error

    def ensure(self, table: LakeTable) -> None:
        """The same for one table."""
        uri = self.location.table(table.name)
        try:
            if is_table(uri, self._options):
                self._add_columns(table)
                return
            DeltaTable.create(
                uri,
                schema=table.schema,
                mode="ignore",
                partition_by=list(table.partition_by) or None,
                name=table.name,
                description=table.doc,
                configuration=dict[str, str | None](table_properties(table, TIME_TRAVEL_DAYS)),
                storage_options=self._options,
            )
        except (DeltaError, OSError) as error:
            if isinstance(error, CommitFailedError) and is_table(uri, self._options):
                return  # another worker was first
            raise wrap_error(error, f"table {table.name} at {uri}") from error

    def _add_columns(self, table: LakeTable) -> None:
        """Adds the columns that the table lacks, by a commit that changes no row.

        Workers of an earlier version cannot write the table any more: they end at their next commit.
        """
        if not table.added:
            return
        for _ in range(COMMIT_RETRIES):
            handle = self.open(table.name)
            there = {field.name for field in handle.schema().fields}
            lacking = [name for name in table.added if name not in there]
            missing = [field for field in Schema.from_arrow(table.schema).fields if field.name in lacking]
            if not missing:
                return
            try:
                handle.alter.add_columns(missing)
                return
            except CommitFailedError:
                time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - another worker was first, or writes
        raise RetryableError(f"table {table.name}: columns {', '.join(table.added)} could not be added: it is busy")

    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of the declared tables that there are, as their logs have them."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            found = pool.map(self._schema, LAKE_TABLES)
            return {name: schema for name, schema in zip(LAKE_TABLES, found, strict=True) if schema is not None}

    def _schema(self, name: str) -> pa.Schema | None:
        uri = self.location.table(name)
        with wrapped_errors(f"table {name} at {uri}"):
            return pa.schema(self.open(name).schema().to_arrow()) if is_table(uri, self._options) else None

    def replace(self, name: str, rows: pa.RecordBatchReader) -> None:
        """Puts these rows, streamed, in the place of all rows of a table by one commit; after an error it is as before.

        Of two that replace at once the later fails. For tables that no worker writes.
        """
        with wrapped_errors(f"table {name}"):
            write_deltalake(
                self.open(name),
                rows,
                mode="overwrite",
                writer_properties=WRITER,
                post_commithook_properties=WITHOUT_CLEANUP,
            )

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """A fresh handle on a table. Raises UnavailableError when the table or the store is not there."""
        uri = self.location.table(name)
        try:
            return DeltaTable(uri, version=version, storage_options=self._options)
        except TableNotFoundError as error:
            raise UnavailableError(f"no table {name} at {uri}", hint="`trs worker` creates the lake") from error
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"table {name} at {uri}") from error

    def fenced(self, name: str) -> "FencedTable":
        """A writer of one table; open it before the first append."""
        return FencedTable(self, name)

    def find_commit(self, name: str, matches: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
        """The newest of the last 500 commits whose metadata matches, or None."""
        with wrapped_errors(f"table {name}"):
            commits = last_commits(self.open(name), _HISTORY_DEPTH)
        return next((commit for commit in commits if matches(commit)), None)


class KnownIds:
    """Application ids of one table, followed through its commits.

    delta-rs answers for one id at a time and reads the log anew for each: on S3 a request per commit and id.
    Our commits therefore repeat their ids in their metadata; an id that the last commits do not name is asked for.
    """

    def __init__(self) -> None:
        self._version = -1
        self._complete = True
        self._values: dict[str, int | None] = {}

    def read(self, handle: DeltaTable, ids: Iterable[str]) -> dict[str, int]:
        """The values at the version that the handle shows; absent ids are left out."""
        with wrapped_errors(f"table at {handle.table_uri}"):
            return self._read(handle, ids)

    def _read(self, handle: DeltaTable, ids: Iterable[str]) -> dict[str, int]:
        behind = handle.version() - self._version
        if behind:
            wanted = min(behind, _FOLLOWED)
            commits = last_commits(handle, wanted)
            if len(commits) != behind:
                self._values, self._complete = {}, False
            for commit in reversed(commits):
                self._values |= json.loads(commit.get("trs_ids", "{}"))
            self._version = handle.version()
        if not self._complete:
            self._values |= {i: handle.transaction_version(i) for i in ids if i not in self._values}
        found = {i: self._values.get(i) for i in ids}
        return {i: v for i, v in found.items() if v is not None}


class FencedTable:
    """One worker's writer of one table (R5, R8). Not thread-safe: a stage is its only user."""

    def __init__(self, store: LakeStore, name: str) -> None:
        self._store = store
        self.name = name
        self._handle: DeltaTable | None = None
        self._look: DeltaTable | None = None  # for `stored`; never written through
        self._looked = KnownIds()
        self._known = KnownIds()  # at the version of `_handle`
        self._ids: dict[str, int] = {}
        self._committed_s = 0.0

    def stored(self, ids: tuple[str, ...]) -> dict[str, int]:
        """The values that a fresh look at the table shows for these ids; absent ids are left out."""
        return self._looked.read(self._fresh(), ids)

    def _fresh(self) -> DeltaTable:
        """The table as it is now; after the first time only new commits are read."""
        if self._look is None:
            self._look = self._store.open(self.name)
            return self._look
        try:
            self._look.update_incremental()
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"table {self.name}") from error
        return self._look

    def open(self, ids: Mapping[str, int], metadata: Mapping[str, Any], *, seen: Mapping[str, int]) -> None:
        """Commits an opening: no rows, these ids (all that this writer owns). From here on they are fenced.

        `seen` are the stored values from which the caller made `ids`. A former owner may have committed since, and its
        positions must not be set back: MovedError is raised unless they still stand, up to the very commit.
        """
        handle, known = self._fresh(), self._looked
        self._handle, self._look, self._looked, self._ids = None, None, KnownIds(), {}
        if known.read(handle, {*ids, *seen}) != dict(seen):
            raise MovedError(f"{self.name}: another worker committed while we opened its buckets")
        self._handle, self._known = handle, known
        try:
            self._commit(None, dict(ids), metadata)
        except FencedError as error:
            self._store.conflicts[self.name, "moved"] += 1
            raise MovedError(f"{self.name}: another worker committed while we opened its buckets") from error

    def append(self, rows: pa.Table | None, ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None) -> str:
        """Appends rows (None: an empty commit) with the changed ids; the others go along at their last value.

        Returns the commit's unique id. Raises FencedError (not the owner any more), StateUnknownError (reload), or
        FullDiskError. Waits and retries while the table is busy.
        """
        if self._handle is None:
            raise StateUnknownError(f"table {self.name} was not opened")
        if time.monotonic() - self._committed_s >= REOPEN_AFTER_S:
            self._reopen(self._store.open(self.name))
        stand = self._known.read(self._handle, self._ids)
        for app_id, last in self._ids.items():
            if stand.get(app_id) != last:
                self._store.conflicts[self.name, "fenced"] += 1
                raise FencedError(
                    f"{self.name}: {app_id} is at {stand.get(app_id)}, we left it at {last}: another worker owns it"
                )
        return self._commit(rows, self._ids | dict(ids), metadata or {})

    def _commit(self, rows: pa.Table | None, ids: dict[str, int], metadata: Mapping[str, Any]) -> str:
        if self._handle is None:
            raise StateUnknownError(f"table {self.name} was not opened")
        commit_id = uuid.uuid4().hex
        schema = LAKE_TABLES[self.name].schema
        table = schema.empty_table() if rows is None else rows
        properties = CommitProperties(
            custom_metadata={"commit_id": commit_id, "trs": json.dumps(dict(metadata)), "trs_ids": json.dumps(ids)},
            max_commit_retries=COMMIT_RETRIES,
            app_transactions=[Transaction(i, v) for i, v in ids.items()],
        )
        while True:
            try:
                write_deltalake(
                    self._handle,
                    table,
                    mode="append",
                    commit_properties=properties,
                    writer_properties=WRITER,
                    post_commithook_properties=WITHOUT_CLEANUP,
                )
                break
            except (DeltaError, OSError) as error:
                try:
                    outcome = self._outcome(error, commit_id)
                except FencedError:
                    self._store.conflicts[self.name, "fenced"] += 1
                    raise
                if outcome == "done":
                    break
                self._store.conflicts[self.name, "again"] += 1
                time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - jitter, not a secret
        self._ids = ids
        self._committed_s = time.monotonic()
        return commit_id

    def _outcome(self, error: Exception, commit_id: str) -> str:
        """'done' when the commit stands in the log in spite of the error, 'again' on a busy table; raises otherwise."""
        text = str(error)
        if "Concurrent transaction failed" in text:
            raise FencedError(f"{self.name}: another worker committed one of our ids since our last commit") from error
        if "Metadata changed since last commit" in text and self._take_over_metadata():
            return "again"
        if isinstance(error, CommitFailedError) and f"transaction: {COMMIT_RETRIES}" in text:
            return "again"
        wrapped = wrap_error(error, f"commit to {self.name}")
        if isinstance(wrapped, FullDiskError | AccessDeniedError):
            raise wrapped from error
        try:
            found = self._find_own(commit_id)
        except TrsError:
            raise StateUnknownError(f"commit to {self.name}: {wrapped.message}") from error
        if found is None:
            raise StateUnknownError(f"commit to {self.name} did not arrive: {wrapped.message}") from error
        self._handle = self._store.open(self.name, found)
        return "done"

    def _take_over_metadata(self) -> bool:
        """Opens a handle that knows the table's new properties, if all our ids still stand there (R8); else raises.

        False: the columns changed too, which is not for this program to write.
        """
        handle = self._store.open(self.name)
        if self._handle is None or handle.schema() != self._handle.schema():
            return False
        if not self._ids:
            raise MovedError(f"{self.name}: its properties changed while we opened our buckets")
        self._reopen(handle)
        return True

    def _reopen(self, handle: DeltaTable) -> None:
        """Goes on with a fresh handle, if all our ids still stand there. Raises FencedError.

        That is as safe as the old one: an owner after us has moved an id of each bucket by its opening, and what is
        committed after this look is refused by the handle.
        """
        known = KnownIds()
        if known.read(handle, self._ids) != self._ids:
            raise FencedError(f"{self.name}: another worker committed one of our ids since our last commit")
        self._handle, self._known = handle, known

    def _find_own(self, commit_id: str) -> int | None:
        commit = self._store.find_commit(self.name, lambda c: c.get("commit_id") == commit_id)
        return None if commit is None else int(commit["version"])
