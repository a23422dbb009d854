"""Features as of a point in time: SQL over the history of changes."""

from datetime import UTC, datetime
from typing import Literal

from processors.errors import UsageError
from processors.features.declarations import FeatureSet
from processors.keyed_table import latest_sql
from processors.lake_tables import feature_keyed

Axis = Literal["known", "valid"]
"""`known`: what the lake knew then. `valid`: what holds for then by the source's clock, as known today."""


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


def as_of_sql(feature_set: FeatureSet, *, changes: str, time: datetime, axis: Axis = "known") -> str:
    """SQL in parentheses: per entity the declared columns of the row that counted at `time`, deleted entities left out.

    Of an entity the greatest (document version, epoch) counts among the rows with `known_from` (axis `valid`:
    `valid_from`) at or before `time` (R7). `changes` is the set's table of changes.
    """
    moment = f"TIMESTAMPTZ '{time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}+00'"
    # A row's partition is the day of its commit: later days need not be opened.
    pruned = f" AND known_date <= DATE '{time.astimezone(UTC).date().isoformat()}'" if axis == "known" else ""
    rows = f"(SELECT * FROM {changes} WHERE {axis}_from <= {moment}{pruned})"
    return f"""(
  SELECT {", ".join(feature_set.column_names)}
  FROM {latest_sql(feature_keyed(feature_set), rows=rows)}
  WHERE NOT deleted
)"""
