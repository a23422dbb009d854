"""What changed in a feature set between two points in time."""

from dataclasses import dataclass
from decimal import Decimal

import duckdb
import pyarrow as pa

from processors.features.declarations import FeatureColumn, FeatureSet

Number = Decimal | int | float


@dataclass(frozen=True)
class ColumnChange:
    """One column. `changed` counts entities of both times whose value differs (null differs from a value).

    The sums and means are over all entities of each time and without nulls; null for identifiers, dates, texts and
    where there is no value, and the sums also for doubles (shares and means, whose sum says nothing).
    """

    name: str
    changed: int
    sum_before: Decimal | int | None
    sum_after: Decimal | int | None
    mean_before: float | None
    mean_after: float | None


@dataclass(frozen=True)
class Comparison:
    """Counts of entities, and a table of what differs.

    `rows` (by key): `change` ('added', 'removed' or 'changed'), the entity key, then `<column>_before` and
    `<column>_after` of every other column.
    """

    feature_set: FeatureSet
    before: int
    after: int
    added: int
    removed: int
    changed: int
    columns: tuple[ColumnChange, ...]
    rows: pa.Table


def compare(con: duckdb.DuckDBPyConnection, features: FeatureSet, before: str, after: str) -> Comparison:
    """Compares two queries of the set's declared columns, one row per entity each."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE compared_before AS {before}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE compared_after AS {after}")
    values = [c for c in features.columns if c.name not in features.entity_key]
    con.execute(f"CREATE OR REPLACE TEMP TABLE compared AS {_differences_sql(features, values)}")
    counts = dict(con.sql("SELECT change, count(*) FROM compared GROUP BY change").fetchall())
    return Comparison(
        feature_set=features,
        before=_count(con, "compared_before"),
        after=_count(con, "compared_after"),
        added=counts.get("added", 0),
        removed=counts.get("removed", 0),
        changed=counts.get("changed", 0),
        columns=tuple(_column_change(con, features, c) for c in values),
        rows=con.sql(f"FROM compared ORDER BY {', '.join(features.entity_key)}").to_arrow_table(),
    )


def _differences_sql(features: FeatureSet, values: list[FeatureColumn]) -> str:
    key = features.entity_key
    keys = ", ".join(f"coalesce(a.{k}, b.{k}) AS {k}" for k in key)
    pairs = ", ".join(f"b.{c.name} AS {c.name}_before, a.{c.name} AS {c.name}_after" for c in values)
    joined = " AND ".join(f"a.{k} = b.{k}" for k in key)
    differs = " OR ".join(f"a.{c.name} IS DISTINCT FROM b.{c.name}" for c in values)
    return f"""
SELECT
  CASE WHEN b.{key[0]} IS NULL THEN 'added' WHEN a.{key[0]} IS NULL THEN 'removed' ELSE 'changed' END AS change,
  {keys},
  {pairs}
FROM compared_before AS b
FULL JOIN compared_after AS a ON {joined}
WHERE b.{key[0]} IS NULL OR a.{key[0]} IS NULL OR {differs}
"""


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _column_change(con: duckdb.DuckDBPyConnection, features: FeatureSet, column: FeatureColumn) -> ColumnChange:
    name = column.name
    changed = con.sql(
        f"SELECT count(*) FROM compared WHERE change = 'changed' AND {name}_before IS DISTINCT FROM {name}_after"
    ).fetchall()[0][0]
    sums: list[Decimal | int | None] = [None, None]
    means: list[float | None] = [None, None]
    if name != features.owner_column and column.sql_type not in ("DATE", "VARCHAR"):
        for at, table in enumerate(("compared_before", "compared_after")):
            total = f"fsum({name})" if column.sql_type == "DOUBLE" else f"sum({name})"
            value, mean = con.sql(f"SELECT {total}, CAST({total} AS DOUBLE) / count({name}) FROM {table}").fetchall()[0]
            sums[at] = None if column.sql_type == "DOUBLE" else value
            means[at] = None if value is None else mean
    return ColumnChange(name, changed, sums[0], sums[1], means[0], means[1])
