"""A session of reading the lake: views on demand, features as of a time, comparisons, guarded SQL.

The command line and the notebooks (`trs.lake`) both use this.
"""

import difflib
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from app.output import write_query
from app.settings import Settings
from app.wiring import lake_location
from connectors.object_files import LakeReader, read_error
from connectors.time_travel import VERSIONS, open_version, version_at, versions
from processors.errors import TrsError, UnavailableError, UsageError
from processors.features.as_of import Axis, as_of_sql
from processors.features.compare import Comparison, compare
from processors.features.declarations import FEATURE_SETS, FeatureSet, feature_set
from processors.features.labels import LABEL_TIME
from processors.features.training import training_sql
from processors.features.versions import entity_condition, entity_history_sql
from processors.lake_tables import (
    EPOCHS,
    HISTORY_RETENTION,
    LAKE_TABLES,
    PERSONAL_TABLES,
    changes_name,
    reconstructed_name,
)
from processors.retention import Zone, thinned_sql, thinned_warning
from processors.views.catalog import VIEWS, create_views, documented_names
from processors.watermark import watermark_sql

_BATCH_ROWS = 50_000


def named_feature_set(name: str) -> FeatureSet:
    """The declared set of that name. Raises UsageError that names the nearest."""
    found = feature_set(name)
    if found is None:
        names = [f.name for f in FEATURE_SETS]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UsageError(f"no feature set `{name}`", hint=hint)
    return found


def check_table(name: str, *, with_personal_data: bool) -> None:
    """Raises UsageError unless it is a table of the lake that may be read."""
    if name in VIEWS:
        raise UsageError(f"`{name}` is a view, and Delta keeps versions of tables", hint="`trs sql` alone lists them")
    if name not in LAKE_TABLES:
        near = difflib.get_close_matches(name, LAKE_TABLES, n=1)
        raise UsageError(
            f"no table `{name}`", hint=f"did you mean {near[0]}?" if near else "`trs sql` alone lists them"
        )
    if name in PERSONAL_TABLES and not with_personal_data:
        raise UsageError(f"{name} holds personal data and is left out", hint="with_personal_data=True reads it")


@dataclass(frozen=True)
class Freshness:
    """As of when an answer is. `watermark`: answers at or before it never change; None: nothing is committed yet."""

    lake: str
    read_at: datetime
    watermark: datetime | None

    def warning(self, time: datetime) -> str | None:
        """What to tell a person who asks for `time`, if the lake is not complete there."""
        if self.watermark is None:
            return f"nothing is committed to {self.lake} yet"
        if time <= self.watermark:
            return None
        shown = self.watermark.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return f"the lake is complete through {shown}; an answer past that may still change"


class LakeSession:
    """One connection to the lake. A context manager; every table is read as it is at its first use."""

    def __init__(self, settings: Settings) -> None:
        self.read_at = datetime.now(UTC)
        location = lake_location(settings)
        self.reader = LakeReader(location.uri, location.storage_options)
        self.con = self.reader.connect()
        self.con.execute(f"SET threads = {settings.threads}")
        self.con.execute(f"SET memory_limit = '{settings.memory_mb}MB'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases everything."""
        self.reader.close()

    def create_views(self, names: Iterable[str]) -> None:
        """Makes these tables and views visible on `con`, if they are not yet."""
        create_views(self.con, names, self.reader.relations)

    def freshness(self) -> Freshness:
        """The lake's watermark now."""
        self.create_views([EPOCHS.name])
        ((watermark,),) = self.con.sql(watermark_sql(EPOCHS.name)).fetchall()
        return Freshness(self.reader.uri, self.read_at, watermark)

    def warnings(self, features: FeatureSet, times: Iterable[datetime], axis: Axis = "known") -> list[str]:
        """What to tell a person who asks for these times: the lake is not complete yet, or not kept so finely."""
        asked = list(times)
        found = [self.freshness().warning(max(asked))]
        thinned = self.thinned(features)
        found += [thinned_warning(features, thinned, time, axis) for time in asked]
        return [warning for warning in dict.fromkeys(found) if warning is not None]

    def thinned(self, features: FeatureSet) -> list[Zone]:
        """The stretches of the set's history that were thinned (docs/retention.md)."""
        self.create_views([HISTORY_RETENTION.name])
        return [Zone(*row) for row in self.con.sql(thinned_sql(features)).fetchall()]

    def as_of(self, features: FeatureSet, time: datetime | None, axis: Axis = "known") -> str:
        """SQL of the set's rows as of `time` (None: the latest), by key, to run on `con`."""
        changes, reconstructed = changes_name(features), reconstructed_name(features)
        self.create_views([changes] if axis == "known" else [changes, reconstructed])
        keys = ", ".join(features.entity_key)
        rows = as_of_sql(features, changes=changes, reconstructed=reconstructed, time=time, axis=axis)
        return f"FROM {rows} ORDER BY {keys}"

    def training(self, features: FeatureSet, points: pa.Table, axis: Axis = "known") -> pa.Table:
        """Per row of `points` (processors/features/labels.py), in their order, the features at its time."""
        changes, reconstructed = changes_name(features), reconstructed_name(features)
        self.create_views([changes] if axis == "known" else [changes, reconstructed])
        last = pc.max(points[LABEL_TIME]).as_py() or self.read_at
        self.con.register("label_points", points)
        query = training_sql(
            features, points="label_points", changes=changes, reconstructed=reconstructed, last=last, axis=axis
        )
        try:
            return self.run(query)
        finally:
            self.con.unregister("label_points")

    def history(self, features: FeatureSet, key: tuple[object, ...]) -> str:
        """SQL of every version of one entity, the least first, to run on `con`. Raises UsageError for a wrong key."""
        entity = entity_condition(features, key)
        changes, reconstructed = changes_name(features), reconstructed_name(features)
        self.create_views([changes, reconstructed])
        return entity_history_sql(features, changes=changes, reconstructed=reconstructed, entity=entity)

    def delta(
        self, name: str, *, version: int | None = None, time: datetime | None = None, with_personal_data: bool = False
    ) -> pa.Table:
        """All rows of a table at one of its Delta versions, by number or as of a time; the newest by default.

        Raises UsageError for another name, a version that cannot be read (any more), and a time before the log begins.
        """
        check_table(name, with_personal_data=with_personal_data)
        if version is not None and time is not None:
            raise UsageError("a version and a time are two questions", hint="leave out one of them")
        if time is not None:
            version = version_at(self.reader, name, time)
        if version is None:
            return self.run(f"FROM {self.reader.relation(name)}")
        files = self.reader.files_of(name, open_version(self.reader, name, version))
        try:
            return self.run(f"FROM {self.reader.relation(name, files)}")
        except UnavailableError as error:
            raise UnavailableError(
                f"version {version} of {name}: {error.message}",
                hint="vacuum removes files that only old versions need; as_of asks the history, and goes further back",
            ) from None

    def delta_versions(self, name: str, limit: int) -> pa.Table:
        """The newest `limit` versions of a table: number, time of the commit, operation. Raises UsageError."""
        check_table(name, with_personal_data=True)
        if limit < 1:
            raise UsageError(f"limit={limit}: at least 1")
        return pa.Table.from_pylist(versions(self.reader, name, limit), schema=VERSIONS)

    def first_time(self, features: FeatureSet, axis: Axis = "known") -> datetime | None:
        """When the set's history begins, None while it has no rows."""
        tables = [changes_name(features)] + ([reconstructed_name(features)] if axis == "valid" else [])
        self.create_views(tables)
        times = " UNION ALL ".join(f"SELECT {axis}_from AS began FROM {name}" for name in tables)
        ((first,),) = self.con.sql(f"SELECT min(began) FROM ({times})").fetchall()
        return None if first is None else first.astimezone(UTC)

    def compare(self, features: FeatureSet, before: datetime, after: datetime, axis: Axis = "known") -> Comparison:
        """What changed in the set from one time to the other."""
        return compare(self.con, features, self.as_of(features, before, axis), self.as_of(features, after, axis))

    def prepare_query(self, query: str, *, with_personal_data: bool = False) -> str:
        """Checks that `query` is one SELECT, shows it what it names of the lake, and shuts everything else out.

        Afterwards the connection reads the lake's files only and its settings are locked. Tables with personal data are
        left out unless they are asked for. Returns the query without a trailing semicolon. Raises UsageError.
        """
        try:
            statements = self.con.extract_statements(query)
        except duckdb.Error as error:
            raise UsageError(f"SQL: {_first_line(error)}") from None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UsageError("only one SELECT at a time: the lake is read-only here", hint="see `trs sql --help`")
        left_out = frozenset() if with_personal_data else PERSONAL_TABLES
        self.create_views(name for name in _names_in(query) if name not in left_out)
        self._shut(left_out)
        return str(statements[0].query).strip().rstrip(";")

    def _shut(self, left_out: Set[str]) -> None:
        root = self.reader.uri.replace("'", "''")
        folders = ", ".join(f"'{root}/{name}/'" for name in LAKE_TABLES if name not in left_out)
        self.con.execute(f"SET allowed_directories = [{folders}]")
        self.con.execute("SET python_enable_replacements = false")
        self.con.execute("SET enable_external_access = false")
        self.con.execute("SET lock_configuration = true")

    def write(self, prepared: str, out: Path) -> int:
        """Writes the rows of a prepared query to a .csv or .parquet file and returns how many. Raises UsageError.

        CSV is safe for spreadsheets: text that they would take for a formula has an apostrophe before it.
        """
        # This connection reaches nothing but the lake any more, so another one writes what it streams.
        try:
            with duckdb.connect() as writer:
                writer.execute("SET TimeZone = 'UTC'")
                writer.register("answer", self.con.sql(prepared).to_arrow_reader(_BATCH_ROWS))
                return write_query(writer, "FROM answer", out, safe=True)
        except duckdb.Error as error:
            raise query_error(error) from None

    def run(self, query: str) -> pa.Table:
        """The rows of a prepared query, all in memory. Raises UsageError for what the query does wrong."""
        try:
            return self.con.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise query_error(error) from None


def query_error(error: duckdb.Error) -> TrsError:
    """A failure of a query as one of ours."""
    unread = read_error(error)
    if unread is not None:
        return unread
    text = _first_line(error)
    if isinstance(error, duckdb.PermissionException):
        return UsageError("SQL: only the tables and views of the lake can be read", hint="`trs sql` alone lists them")
    if isinstance(error, duckdb.IOException):
        return UnavailableError(f"the lake's files cannot be read: {text}", hint="if upkeep removed one, ask again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return UsageError("the query needs more memory than it may take", hint="raise TRS_MEMORY_MB, or ask for less")
    named = sorted(name for name in PERSONAL_TABLES if name in text.lower())
    if isinstance(error, duckdb.CatalogException) and named:
        return UsageError(
            f"SQL: {named[0]} holds personal data and is left out",
            hint="`trs sql --with-personal-data`, or in a notebook `lake.sql(…, with_personal_data=True)`, reads it",
        )
    hint = "`trs sql` alone lists tables and views" if isinstance(error, duckdb.CatalogException) else None
    return UsageError(f"SQL: {text}", hint=hint)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _names_in(query: str) -> list[str]:
    """The tables and views of the lake that a query names; all of them where that cannot be told from its text."""
    import sqlglot  # half a second that only SQL needs
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    known = documented_names()
    try:
        tree = sqlglot.parse_one(query, dialect="duckdb")
    except SqlglotError:
        return list(known)
    named = {table.name.lower() for table in tree.find_all(exp.Table)} & set(known)
    return sorted(named) if named else list(known)
