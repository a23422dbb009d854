"""Training sets: per label the features that counted at its time, in one pass over the history."""

from datetime import UTC, datetime

from processors.features.as_of import Axis
from processors.features.declarations import FeatureSet
from processors.features.labels import LABEL_TIME, ROW_NUMBER, value_columns
from processors.features.versions import ABOUT_VERSION, history_rows_sql, until_sql


def training_sql(
    feature_set: FeatureSet, *, points: str, changes: str, reconstructed: str, last: datetime, axis: Axis = "known"
) -> str:
    """A query (DuckDB) with one row per row of `points` (see `label_points`), by `row_number`.

    It has the columns of the set without its key, `known_from`, `valid_from` and `has_features`: of the row that
    `as_of_sql` at the label's time gives for the entity; nulls and false where it gives none. A row that became known
    (axis `valid`: valid) at the very time of the label counts. `last`: the greatest time of the points.

    The intervals in which rows counted are made once, for entities that have labels, and joined by time: the cost
    follows the history and the labels, not their product.
    """
    key = ", ".join(feature_set.entity_key)
    begin = f"{axis}_from"
    wanted = f"({key}) IN (SELECT ({key}) FROM {points})"
    if axis == "known":
        day = last.astimezone(UTC).date().isoformat()
        # Later rows neither count at a label's time nor end what counts there.
        rows = f"(SELECT * FROM {changes} WHERE {wanted} AND known_date <= DATE '{day}')"
    else:
        rows = history_rows_sql(feature_set, changes=changes, reconstructed=reconstructed, where=wanted)
    values = value_columns(feature_set)
    names = ", ".join(dict.fromkeys((*feature_set.entity_key, *values, *ABOUT_VERSION)))
    shown = "".join(
        f"\n  CASE WHEN NOT v.deleted THEN v.{c} END AS {c}," for c in (*values, "known_from", "valid_from")
    )
    same = " AND ".join(f"l.{k} = v.{k}" for k in feature_set.entity_key)
    return f"""
WITH versions AS (
  SELECT *
  FROM (SELECT {names}, {until_sql(feature_set, axis)} AS until FROM {rows})
  WHERE until IS NULL OR until > {begin}
)
SELECT{shown}
  coalesce(NOT v.deleted, FALSE) AS has_features
FROM {points} AS l
ASOF LEFT JOIN versions AS v ON {same} AND l.{LABEL_TIME} >= v.{begin}
ORDER BY l.{ROW_NUMBER}"""
