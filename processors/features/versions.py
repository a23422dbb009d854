"""The versions of entities: for how long each row of a history counted, on both axes, and what it changed.

Of an entity the greatest (document version, epoch) counts, whenever it arrives (R7). So a row counts from the moment at
which it was known until the first moment at which any greater row was known:

    known_until = the least known_from of the entity's greater rows, null without any; known_from where that is earlier

A row that arrived when a greater one was known already never counted: its interval is empty. `valid_until` is the same
by `valid_from`; there, reconstructed rows are less than every observed one, and among themselves the later counts. Then

    known_from <= T AND (known_until IS NULL OR known_until > T)

picks the row of `as_of_sql` at T, for every T.
"""

from datetime import date

from processors.errors import UsageError
from processors.features.as_of import Axis
from processors.features.declarations import FeatureColumn, FeatureSet

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
    """An expression over rows of the history: until when the row counted; null if it still does, or never began."""
    begin = f"{axis}_from"
    first = f"min({begin}) OVER {greater_rows_window(feature_set)}"
    return f"CASE WHEN {first} < {begin} THEN {begin} WHEN {begin} IS NOT NULL THEN {first} END"


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


def entity_condition(feature_set: FeatureSet, key: tuple[object, ...]) -> str:
    """A condition that a row is of the entity with these values of the set's key, given as text or as values.

    Raises UsageError where they are too many, too few, or not of the key's types.
    """
    columns = [c for name in feature_set.entity_key for c in feature_set.columns if c.name == name]
    if len(key) != len(columns):
        names = ", ".join(feature_set.entity_key)
        raise UsageError(f"{len(key)} values for the key of {feature_set.name}", hint=f"its key is {names}")
    return " AND ".join(f"{c.name} = {_literal(c, value)}" for c, value in zip(columns, key, strict=True))


_INTEGER_BITS = {"BIGINT": 64, "INTEGER": 32}


def _literal(column: FeatureColumn, value: object) -> str:
    text = str(value).strip()
    if column.sql_type == "DATE":
        try:
            return f"DATE '{date.fromisoformat(text).isoformat()}'"
        except ValueError:
            raise UsageError(f"`{text}` is not a value of {column.name}, which is a date", hint="2024-05-31") from None
    bits = _INTEGER_BITS.get(column.sql_type)
    if bits is None:
        return "CAST('" + text.replace("'", "''") + f"' AS {column.sql_type})"
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"`{text}` is not a value of {column.name}, which is a whole number") from None
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise UsageError(f"{column.name} = {text} is out of the range of {column.sql_type}")
    return str(number)


def entity_history_sql(feature_set: FeatureSet, *, changes: str, reconstructed: str, entity: str) -> str:
    """A query (DuckDB): every version of one entity, `entity` being the condition for it, the least version first.

    The declared columns, then `known_from`, `known_until`, `valid_from`, `valid_until`, `deleted`, `origin`, `changed`,
    `document_version`, `epoch`. `changed` names the columns that differ from the version before; it is null where there
    is nothing to compare: for the first version, a deletion, and the version after one.
    """
    rows = history_rows_sql(feature_set, changes=changes, reconstructed=reconstructed, where=entity)
    values = [name for name in feature_set.column_names if name not in feature_set.entity_key]
    columns = ", ".join(feature_set.column_names)
    order = "document_version NULLS FIRST, epoch NULLS FIRST, valid_from"
    flags = ", ".join(f"CASE WHEN {c} IS DISTINCT FROM lag({c}) OVER (ORDER BY {order}) THEN '{c}' END" for c in values)
    return f"""
SELECT {columns}, known_from, known_until, valid_from, valid_until, deleted, origin,
  CASE WHEN NOT (deleted OR deleted_before) THEN list_filter(flags, lambda x: x IS NOT NULL) END AS changed,
  document_version, epoch
FROM (
  SELECT *, {until_sql(feature_set, "known")} AS known_until, {until_sql(feature_set, "valid")} AS valid_until,
    lag(deleted, 1, TRUE) OVER (ORDER BY {order}) AS deleted_before, [{flags}] AS flags
  FROM {rows}
)
ORDER BY {order}"""
