"""The versions of entities: for how long each row of a history counted, on both axes, and what it changed.

Of an entity the greatest (document version, epoch) counts, whenever it arrives (R7). So a row counts from the moment at
which it was known until the first moment at which any greater row was known:

    known_until = the least known_from of the entity's greater rows, null without any; known_from where that is earlier

A row that arrived when a greater one was known already never counted: its interval is empty. `valid_until` is the same
by `valid_from`; there, reconstructed rows are less than every observed one, and among themselves the later counts. Then

    known_from <= T AND (known_until IS NULL OR known_until > T)

picks the row of `as_of_sql` at T, for every T.
"""

from processors.features.as_of import Axis
from processors.features.declarations import FeatureSet

ABOUT_VERSION = ("valid_from", "known_from", "deleted", "document_version", "epoch")
"""What the history says of a row besides its features, in the changes and (null or false) of reconstructed rows."""


def greater_rows_window(feature_set: FeatureSet) -> str:
    """The window of an entity's rows that are greater than this one; in the words of all engines."""
    key = ", ".join(feature_set.entity_key)
    return (
        f"(PARTITION BY {key} ORDER BY document_version NULLS FIRST, epoch NULLS FIRST, valid_from"
        " ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)"
    )


def until_sql(feature_set: FeatureSet, axis: Axis) -> str:
    """An expression over rows of the history: until when the row counted, null if it still does."""
    begin = f"{axis}_from"
    first = f"min({begin}) OVER {greater_rows_window(feature_set)}"
    return f"CASE WHEN {first} < {begin} THEN {begin} ELSE {first} END"


def history_rows_sql(feature_set: FeatureSet, *, changes: str, reconstructed: str, where: str = "TRUE") -> str:
    """SQL in parentheses: all rows of the history that satisfy `where`, observed and reconstructed, with `origin`."""
    columns = ", ".join(feature_set.column_names)
    return f"""(
  SELECT {columns}, {", ".join(ABOUT_VERSION)}, CAST('observed' AS VARCHAR) AS origin
  FROM {changes} WHERE {where}
  UNION ALL
  SELECT {columns}, valid_from, NULL, false, NULL, NULL, origin
  FROM {reconstructed} WHERE {where}
)"""
