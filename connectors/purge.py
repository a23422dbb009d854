"""Deletes what older versions of a table keep of rows that were erased: files, log entries, checkpoints.

A vacuum with a short retention would do more than that: it deletes files that a worker has written and not committed
yet, and the rows with them. Here a file goes only if

| the file                            | goes when                                                                      |
| ---                                 | ---                                                                            |
| is part of the newest version       | never                                                                          |
| was removed, as the log tells       | its removal is older than the grace: no query that began before still reads it |
| is of no version that the log knows | it is a day old: no commit takes that long                                     |
| is younger than the last erasure    | not by us: it cannot hold what was erased                                      |
| is a log entry before the erasure   | the entry after it is older than the grace; a new checkpoint is made before    |

The log holds least and greatest values of columns; tables with personal data keep none of personal columns (see
`connectors.lake.table_properties`), but did in lakes that earlier versions made. A writer needs the log since the
version of its handle, which is an hour old at most (`REOPEN_AFTER_S`): a grace that is longer disturbs no worker.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import unquote

import pyarrow.parquet as pq

from connectors.erasure import ERASED_AT_ID, ERASED_VERSION_ID
from connectors.lake import REOPEN_AFTER_S, LakeStore, wrapped_errors
from connectors.object_files import active_files
from connectors.table_folder import TableFolder

GRACE = timedelta(seconds=1.5 * REOPEN_AFTER_S)
UNNAMED_GRACE = timedelta(days=1)
_CLOCK_SKEW = timedelta(minutes=10)
"""The store's clock dates files, ours dates erasures."""
_LOG = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.(json|checkpoint\..*parquet|checkpoint\.parquet|crc)")
_CHECKPOINT = ".checkpoint."


@dataclass
class Leftovers:
    """What may still hold erased values: paths below the table that can go now, and those that must wait until when."""

    data: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    waiting: int = 0
    until: datetime | None = None

    @property
    def due(self) -> int:
        """How many files can go."""
        return len(self.data) + len(self.log)

    def wait(self, until: datetime) -> None:
        """One more that must wait."""
        self.waiting += 1
        self.until = until if self.until is None else max(self.until, until)


@dataclass(frozen=True)
class _Log:
    """Files of the log by version; `removed`: when each data file was, of those that the log still tells of."""

    files: dict[int, list[tuple[str, datetime]]]
    removed: dict[str, datetime]


class TablePurge:
    """One table. `grace`: for how long a version that is not the newest any more is still read."""

    def __init__(self, store: LakeStore, name: str, *, grace: timedelta = GRACE) -> None:
        self._store = store
        self._name = name
        self._grace = grace
        self._folder = TableFolder(store.location, name)

    def look(self) -> Leftovers:
        """What is left of erased rows, as of now; nothing where none were erased."""
        with wrapped_errors(f"purge of {self._name}"):
            return self._look(datetime.now(UTC))

    def run(self) -> Leftovers:
        """Deletes what can go, data first; returns that, and what must wait."""
        with wrapped_errors(f"purge of {self._name}"):
            now = datetime.now(UTC)
            found = self._look(now)
            self._folder.delete(found.data)
            if found.log:
                handle = self._store.open(self._name)
                handle.create_checkpoint()
                # Oldest first: what is left after a crash is a log that begins later.
                self._folder.delete(found.log)
            return found

    def _look(self, now: datetime) -> Leftovers:
        # Files are listed before the log is read: what is committed in between is named by it.
        listed = [(path, at) for path, at in self._folder.list("") if not path.startswith("_")]
        handle = self._store.open(self._name)
        version, at_s = (handle.transaction_version(i) for i in (ERASED_VERSION_ID, ERASED_AT_ID))
        found = Leftovers()
        if version is None or at_s is None:
            return found
        erased_at = datetime.fromtimestamp(at_s, UTC) + _CLOCK_SKEW
        active = {unquote(f["path"]) for f in active_files(handle)}
        log = self._read_log()
        for path, written_at in listed:
            if path in active or written_at > erased_at:
                continue
            may_go = log.removed[path] + self._grace if path in log.removed else written_at + UNNAMED_GRACE
            if may_go <= now:
                found.data.append(path)
            else:
                found.wait(may_go)
        self._judge_log(log, version, now, found)
        return found

    def _judge_log(self, log: _Log, version: int, now: datetime, found: Leftovers) -> None:
        """Entries go as a prefix of the log, each once the one after it is older than the grace."""
        written = {v: min(at for _, at in files) for v, files in log.files.items()}
        prefix = True
        for old, after in pairwise(sorted(log.files)):
            if old > version:
                return
            may_go = written[after] + self._grace
            prefix = prefix and may_go <= now
            names = [name for name, _ in log.files[old]]
            if prefix:
                found.log += names
            else:
                for _ in names:
                    found.wait(may_go)

    def _read_log(self) -> _Log:
        files: dict[int, list[tuple[str, datetime]]] = {}
        removed: dict[str, datetime] = {}
        for name, at in self._folder.list(_LOG):
            entry = _ENTRY.fullmatch(name)
            if entry is None:
                continue
            files.setdefault(int(entry[1]), []).append((f"{_LOG}/{name}", at))
            if entry[2] == "crc":
                continue
            content = self._folder.read(f"{_LOG}/{name}")
            if content is None:
                continue
            for path, gone_ms in _removals(name, content):
                removed[path] = datetime.fromtimestamp(gone_ms / 1000, UTC)
        return _Log(files, removed)


def _removals(name: str, content: bytes) -> Iterator[tuple[str, int]]:
    """Paths that an entry or a checkpoint says were removed, with the time in ms since 1970."""
    if _CHECKPOINT in name:
        lines = pq.read_table(io.BytesIO(content), columns=["remove"]).to_pylist()
    else:
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    for line in lines:
        remove = line.get("remove")
        if remove is not None:
            yield unquote(remove["path"]), remove.get("deletionTimestamp") or 0
