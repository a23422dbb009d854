"""Features as of a point in time: SQL over the history of changes, for the engines that read the lake."""

from datetime import UTC, datetime
from typing import Literal, get_args

from processors.errors import UsageError
from processors.features.declarations import FeatureSet
from processors.keyed_table import latest_sql
from processors.lake_tables import changes_name, feature_keyed, reconstructed_name

Axis = Literal["known", "valid"]
"""`known`: what the lake knew then. `valid`: what holds for then by the source's clock, as known today; before an
entity's first observed row, what was reconstructed of it (docs/history.md)."""

Engine = Literal["duckdb", "trino", "athena", "spark"]
"""Who runs the SQL. They differ in one word, that of a literal of a moment."""

ENGINES: tuple[Engine, ...] = get_args(Engine)


def parse_time(text: str, *, now: datetime) -> datetime:
    """ISO-8601 or `now`; UTC if it has no zone; a day is its first moment. Raises UsageError."""
    if text.strip().lower() == "now":
        return now
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"`{text}` is not a time", hint="write it as 2024-05-31T18:00:00Z or 2024-05-31, UTC if no zone; or `now`"
        ) from None
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"`{text}` is out of the calendar in UTC") from None


def format_time(time: datetime) -> str:
    """ISO-8601 in UTC, in microseconds where it has any."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def moment_sql(time: datetime, engine: Engine = "duckdb") -> str:
    """A literal of this moment, whatever the session's time zone is.

    A zone in the text of a TIMESTAMP makes it a moment for all but DuckDB, which drops it there.
    """
    word = "TIMESTAMPTZ" if engine == "duckdb" else "TIMESTAMP"
    return f"{word} '{time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}+00:00'"


def as_of_sql(
    feature_set: FeatureSet,
    *,
    changes: str,
    reconstructed: str,
    time: datetime | None,
    axis: Axis = "known",
    engine: Engine = "duckdb",
) -> str:
    """SQL in parentheses: per entity the declared columns of the row that counted at `time`, deleted entities left out.

    Of an entity the greatest (document version, epoch) counts among the rows with `known_from` (axis `valid`:
    `valid_from`) at or before `time` (R7), among all of them without a time. `changes` is the set's table of changes,
    `reconstructed` that of its past: axis `valid` takes the latest row there of an entity without any observed row by
    then; axis `known` never reads it.
    """
    conditions = [] if time is None else [f"{axis}_from <= {moment_sql(time, engine)}"]
    rows = changes
    if time is not None:
        # A row's partition is the day of its commit: later days need not be opened.
        day = [f"known_date <= DATE '{time.astimezone(UTC).date().isoformat()}'"] if axis == "known" else []
        rows = f"(SELECT * FROM {changes} WHERE {' AND '.join(conditions + day)})"
    columns = ", ".join(feature_set.column_names)
    observed = f"""SELECT {columns}
  FROM {latest_sql(feature_keyed(feature_set), rows=rows, columns=(*feature_set.column_names, "deleted"))} AS latest
  WHERE NOT deleted"""
    if axis == "known":
        return f"(\n  {observed}\n)"
    key = ", ".join(feature_set.entity_key)
    same = " AND ".join(f"o.{k} = r.{k}" for k in feature_set.entity_key)
    conditions.append(f"NOT EXISTS (SELECT 1 FROM {rows} AS o WHERE {same})")
    return f"""(
  {observed}
  UNION ALL
  SELECT {columns}
  FROM (
    SELECT r.*, row_number() OVER (PARTITION BY {key} ORDER BY valid_from DESC) AS rank_in_entity
    FROM {reconstructed} AS r
    WHERE {" AND ".join(conditions)}
  ) AS ranked
  WHERE rank_in_entity = 1
)"""


def as_of_statement(
    feature_set: FeatureSet, *, time: datetime | None, axis: Axis = "known", engine: Engine = "duckdb"
) -> str:
    """A SELECT over the lake's tables by their names, to paste into another engine: `as_of_sql` by key."""
    rows = as_of_sql(
        feature_set,
        changes=changes_name(feature_set),
        reconstructed=reconstructed_name(feature_set),
        time=time,
        axis=axis,
        engine=engine,
    )
    columns, key = ", ".join(feature_set.column_names), ", ".join(feature_set.entity_key)
    return f"SELECT {columns}\nFROM {rows} AS as_of_then\nORDER BY {key}"
