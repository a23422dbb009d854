"""Erases one account's personal data from the Delta tables that hold it: first the rows, then what older versions keep.

A file with such rows is rewritten with them emptied, by a commit like a compaction's (connectors/compaction.py):
`dataChange` is false, on the very version at which the file was active. Workers append meanwhile and keep their
handles; what they append of the same account is found by the next look. The commit says in application ids how far the
log, and until when files, may hold what was erased; connectors/purge.py deletes these once nobody needs them.
Killed anywhere, the same command goes on: what is left is found by looking.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from connectors.compaction import DAY, FileRewrite, data_files, unknown_columns
from connectors.delta_lake import DeltaLake
from connectors.lake import wrapped_errors
from connectors.object_files import ActiveFile, active_files, read_error
from processors.compaction import DataFile, FileGroup
from processors.erasure import PLACES, erased_sql, hits_sql, letters_about, texts_sql
from processors.errors import InvariantError, RetryableError, SettingsError
from processors.lake_tables import ACCOUNTS_PRIVATE, DEAD_LETTERS, LakeTable

ERASED_VERSION_ID = "erased_version"
"""Application id: log entries through this version may hold values that were erased since."""
ERASED_AT_ID = "erased_at_s"
"""Application id: files that the newest version lacks and that are no younger than this may hold them."""
_ATTEMPTS = 20
_TARGET_BYTES = 128_000_000


@dataclass(frozen=True)
class Erasing:
    """What is to become of one table: rows to be emptied, and the files that hold them."""

    table: LakeTable
    rows: int
    files: tuple[DataFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)


def find_letters(lake: DeltaLake, con: duckdb.DuckDBPyConnection, account_id: int, topic_prefix: str) -> pa.Table:
    """Leaves the letters that are about the account in `PLACES`, and returns their places."""
    with wrapped_errors(f"table {DEAD_LETTERS.name}"):
        try:
            texts = [t for (t,) in con.sql(texts_sql(lake.relation(ACCOUNTS_PRIVATE.name), account_id)).fetchall()]
            columns = ", ".join(("topic", "partition", "row_offset", *DEAD_LETTERS.personal_columns))
            letters = con.sql(f"SELECT {columns} FROM {lake.relation(DEAD_LETTERS.name)}").to_arrow_reader(10_000)
            found = [
                letters_about(pa.Table.from_batches([batch]), account_id, texts, topic_prefix=topic_prefix)
                for batch in letters
            ]
        except duckdb.Error as error:
            raise read_error(error) or error from error
    schema = pa.schema([DEAD_LETTERS.schema.field(n).remove_metadata() for n in ("topic", "partition", "row_offset")])
    places = pa.concat_tables([schema.empty_table(), *(f.cast(schema) for f in found)])
    con.execute(f"DROP TABLE IF EXISTS {PLACES}")
    con.register("erasure_places", places)
    con.execute(f"CREATE TEMP TABLE {PLACES} AS SELECT DISTINCT * FROM erasure_places")
    con.unregister("erasure_places")
    return places


def look(lake: DeltaLake, con: duckdb.DuckDBPyConnection, table: LakeTable, account_id: int) -> Erasing:
    """The rows that hold personal data of the account now. Raises SettingsError for a lake of another version."""
    with wrapped_errors(f"erasure in {table.name}"):
        try:
            return _look(lake, con, table, account_id)
        except duckdb.Error as error:
            raise read_error(error) or error from error


def _look(lake: DeltaLake, con: duckdb.DuckDBPyConnection, table: LakeTable, account_id: int) -> Erasing:
    handle = lake.store.open(table.name)
    check_columns(handle, table)
    known = {f.path: f for f in data_files(handle)}
    whole = hits_sql(table, lake.relation_of(table.name, handle), account_id)
    days = {day for (day,) in con.sql(f"SELECT DISTINCT {DAY} FROM {whole} AS h").fetchall()}
    rows, hit = 0, []
    for file in active_files(handle):
        path = file["path"]
        if file.get(f"partition.{DAY}") not in days:
            continue
        relation = lake.relation_of(table.name, handle, partial(_is, path))
        ((found,),) = con.sql(f"SELECT count(*) FROM {hits_sql(table, relation, account_id)} AS h").fetchall()
        if found:
            if path not in known:
                raise InvariantError(f"{table.name}: file {path} has no statistics or no day and cannot be rewritten")
            rows += found
            hit.append(known[path])
    return Erasing(table, rows, tuple(hit))


def _is(path: str, file: ActiveFile) -> bool:
    return bool(file["path"] == path)


def check_columns(handle: DeltaTable, table: LakeTable) -> None:
    """Refuses a table with columns that this program does not know, or without some that it does."""
    unknown = unknown_columns(handle, table)
    if unknown:
        raise SettingsError(
            f"{table.name} has columns of a newer version: {', '.join(unknown)}", hint="upgrade this program"
        )
    if len(handle.schema().fields) < len(table.schema):
        raise SettingsError(
            f"{table.name} was made by an earlier version and lacks columns",
            hint="start a worker of this version once, which adds them",
        )


def erase(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    table: LakeTable,
    account_id: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Empties all rows of the account until a look finds none; returns how many. `progress`: files of this look."""
    rows = 0
    for _ in range(_ATTEMPTS):
        found = look(lake, con, table, account_id)
        if not found.rows:
            return rows
        by_day: defaultdict[date | None, list[DataFile]] = defaultdict(list)
        for file in found.files:
            by_day[file.day].append(file)
        done = 0
        for day, files in by_day.items():
            if stopped():
                return rows
            if _rewrite(lake, con, table, account_id, day, files):
                done += len(files)
                progress(done, len(found.files))
        rows += found.rows if done == len(found.files) else 0
    raise RetryableError(f"{table.name}: its files are rewritten all the time, try again")


def _rewrite(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    table: LakeTable,
    account_id: int,
    day: date | None,
    files: list[DataFile],
) -> bool:
    """One day; False: another rewrite of the table was first."""
    group = FileGroup(day, tuple(files), parts=max(1, math.ceil(sum(f.size_bytes for f in files) / _TARGET_BYTES)))
    with wrapped_errors(f"erasure in {table.name}"):
        try:
            return _Emptied(lake, con, table, group, account_id).run().committed
        except duckdb.Error as error:
            raise read_error(error) or error from error


class _Emptied(FileRewrite):
    """Files of a day with the account's rows emptied."""

    note = "forget"

    def __init__(
        self, lake: DeltaLake, con: duckdb.DuckDBPyConnection, table: LakeTable, group: FileGroup, account_id: int
    ) -> None:
        super().__init__(lake, con, table, group)
        self._account_id = account_id
        self._seen_version = 0

    def is_as_planned(self, handle: DeltaTable, serial: int) -> bool:
        self._seen_version = int(handle.version())  # that which the commit is made on
        return super().is_as_planned(handle, serial)

    @property
    def own_ids(self) -> dict[str, int]:
        return {ERASED_VERSION_ID: self._seen_version, ERASED_AT_ID: math.ceil(time.time())}

    def rows_sql(self, relation: str) -> str:
        return erased_sql(self._table, relation, self._account_id)
