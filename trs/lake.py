"""The lake for notebooks.

    from trs import lake

    lake.as_of("2024-05-31", to="pandas")
    lake.compare("2024-05-01", "2024-06-01").rows
    lake.training_set(labels, time="decided_at")
    lake.sql("SELECT account_id, sum(inv_total) AS revenue FROM invoices GROUP BY ALL")

Where the lake is comes from the settings (`trs settings`): environment variables TRS_*, a `.env`, the running embedded
stack. Times are ISO-8601 text or datetimes, UTC if they have no zone; text may also be `now`. An answer for a time that
the lake is not complete for is given with a UserWarning. Wrong arguments raise `processors.errors.UsageError`.

Answers are Arrow tables; `to="polars"` or `to="pandas"` makes them frames of these packages (the extra `notebooks`).
Decimals stay exact in all three. As of when an answer is stands in `schema.metadata` of an Arrow table and in `attrs`
of a pandas frame: `read_at`, and `complete_through`, the lake's watermark.
"""

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from app import feature_overview
from app.feature_overview import Description
from app.frames import Kind, check_kind, column_names, from_arrow, kind_of, to_arrow, with_columns
from app.lake_session import LakeSession, named_feature_set
from app.settings import load_settings
from processors.features.as_of import Axis, format_time, parse_time
from processors.features.compare import ColumnChange, Comparison
from processors.features.declarations import FeatureSet
from processors.features.drift import drift as _drift
from processors.features.labels import LABEL_TIME, check_names, key_columns, label_points

__all__ = [
    "ColumnChange",
    "Comparison",
    "Description",
    "as_of",
    "compare",
    "delta",
    "delta_versions",
    "describe",
    "drift",
    "history_of",
    "sql",
    "training_set",
]


def as_of(
    time: str | datetime, feature_set: str = "invoice_features", *, axis: Axis = "known", to: Kind = "arrow"
) -> Any:
    """The rows of a feature set as they were at `time`, by key, in the declared columns and types.

    `axis="known"`: what the lake knew then. `axis="valid"`: what held then by the source's clock, as known today.

    >>> lake.as_of("2024-05-31T18:00:00Z", "account_features").column_names[:3]
    ['acct_id', 'num_inv', 'revenue']
    """
    features = named_feature_set(feature_set)
    check_kind(to)
    with LakeSession(load_settings()) as session:
        (moment,) = _times(session, features, axis, time)
        return from_arrow(_stamped(session, session.run(session.as_of(features, moment, axis))), to)


def compare(
    time1: str | datetime, time2: str | datetime, feature_set: str = "invoice_features", *, axis: Axis = "known"
) -> Comparison:
    """What changed from `time1` to `time2`: counts, one entry per column, and `rows`, the entities that differ.

    >>> found = lake.compare("2024-05-01", "2024-06-01")
    >>> found.added, found.removed, found.changed
    (2, 0, 1)
    >>> found.rows.select(["change", "inv_id", "inv_total_after"]).slice(0, 1).to_pylist()
    [{'change': 'changed', 'inv_id': 1, 'inv_total_after': Decimal('12.5000000000')}]
    """
    features = named_feature_set(feature_set)
    with LakeSession(load_settings()) as session:
        before, after = _times(session, features, axis, time1, time2)
        return session.compare(features, before, after, axis)


def training_set(
    labels: Any,
    feature_set: str = "invoice_features",
    *,
    entity: str | Sequence[str] | None = None,
    time: str = "time",
    axis: Axis = "known",
    prefix: str = "",
    to: Kind | None = None,
) -> Any:
    """The labels with the features that were known of each label's entity at the label's time.

    `labels`: an Arrow table, a polars or a pandas DataFrame. `entity`: its columns of the set's key, by default those
    of the key's own names; `time`: its column of times (dates are their first moment, UTC without a zone). All its rows
    and columns stay as they are, in their order; a label that is there twice gets its features twice. After them come
    the set's columns without the key, each name behind `prefix`, and of the row that was taken:

    - `known_from`: when the lake knew it. Never after the label's time: that is what keeps the future out. A row that
      became known at the very time of the label counts, as in `as_of`.
    - `valid_from`: when the source committed it.
    - `has_features`: false where the entity had no row then, or was deleted; the features are null there.

    `axis="valid"` asks what held at the label's time by the source's clock, as known *today*: what arrived late is
    there, and the past before the lake as reconstructed. That is good for studies, but a model trained on it has seen
    more than it will see.

    The answer is of the labels' own kind unless `to` says otherwise. Nulls in the entity or the time are refused. Times
    past the lake's watermark are answered with a warning, and so are labels of which none has features.

    >>> labels = pa.table({"invoice": [1, 1, 9], "time": [date(2024, 5, 2), date(2024, 6, 1), date(2024, 6, 1)]})
    >>> answer = lake.training_set(labels, entity="invoice")
    >>> answer.select(["invoice", "time", "inv_total", "has_features"]).to_pylist()  # doctest: +NORMALIZE_WHITESPACE
    [{'invoice': 1, 'time': datetime.date(2024, 5, 2), 'inv_total': Decimal('10.0000000000'), 'has_features': True},
     {'invoice': 1, 'time': datetime.date(2024, 6, 1), 'inv_total': Decimal('12.5000000000'), 'has_features': True},
     {'invoice': 9, 'time': datetime.date(2024, 6, 1), 'inv_total': None, 'has_features': False}]
    """
    features = named_feature_set(feature_set)
    if kind_of(labels) == "arrow":
        labels = to_arrow(labels, "labels")  # a stream can be read once
    asked = (*key_columns(features, entity), time)
    check_names(column_names(labels, "labels"), features, asked=asked, prefix=prefix)
    points = label_points(to_arrow(labels, "labels", asked), features, entity=entity, time=time)
    check_kind(to or kind_of(labels))
    with LakeSession(load_settings()) as session:
        _warn_of_labels(session, features, points)
        found = session.training(features, points, axis)
        _warn_of_emptiness(session, features, axis, found)
    if prefix:
        found = found.rename_columns([prefix + name for name in found.column_names])
    if to is not None and to != kind_of(labels):
        labels = from_arrow(to_arrow(labels, "labels"), to)
    return with_columns(labels, found)


def delta(
    table: str,
    *,
    version: int | None = None,
    timestamp: str | datetime | None = None,
    with_personal_data: bool = False,
    to: Kind = "arrow",
) -> Any:
    """All rows of one table of the lake at a Delta version: of a number, or the last committed by `timestamp`.

    Delta's time travel shows a table as its writers left it, log rows, folds and tombstones; it needs no columns of
    ours. But it goes back only as far as the table's log (30 days) and the files that vacuum left (7 days); earlier
    times and versions are refused. `as_of` answers from the history itself, however long ago, and in every engine.
    Without version and timestamp: the newest. `delta_versions` lists what there is.

    >>> [lake.delta("invoice_features_changes", version=v).num_rows for v in range(4)]
    [1, 2, 3, 4]
    """
    check_kind(to)
    with LakeSession(load_settings()) as session:
        time = None if timestamp is None else _time(session, timestamp)
        return from_arrow(session.delta(table, version=version, time=time, with_personal_data=with_personal_data), to)


def delta_versions(table: str, *, limit: int = 20, to: Kind = "arrow") -> Any:
    """The newest versions of a table that its log still has, newest first: when each was committed, and by what.

    >>> lake.delta_versions("invoice_features_changes", limit=2).select(["version", "operation"]).to_pylist()
    [{'version': 3, 'operation': 'WRITE'}, {'version': 2, 'operation': 'WRITE'}]
    """
    check_kind(to)
    with LakeSession(load_settings()) as session:
        return from_arrow(session.delta_versions(table, limit), to)


def describe() -> Description:
    """What is there: the feature sets with their columns, how many rows, from when to when, and the watermark.

    It prints as text; `feature_sets` and `columns` are Arrow tables.

    >>> print(lake.describe())  # doctest: +ELLIPSIS
    /...: complete through 2024-06-30T00:00:00Z, read at ...
    <BLANKLINE>
    invoice_features: 3 entities, 4 versions of 2024-05-01T00:00:00Z to 2024-05-28T17:00:00Z
      One row per invoice: what it is worth and how its account behaved up to its issue.
      inv_id            key: The invoice.
      acct_id           Its account.
    ...
    """
    with LakeSession(load_settings()) as session:
        return feature_overview.describe(session)


def drift(before: Any, after: Any, columns: Sequence[str] | None = None, *, bins: int = 10, to: Kind = "arrow") -> Any:
    """How far the values of features moved from one frame to another: the population stability index per column.

    `before`, `after`: answers of `as_of`, whole or filtered, in any kind of frame. `columns`: by default every number
    that both have and that is not an identifier. The answer has a row per column, the greatest index first: `column`,
    `psi` (below 0.1 is usually called stable, above 0.25 a shift; NaN where a frame has no rows), and of both frames
    the mean and the share of nulls. `bins`: at most so many, of equal numbers of the earlier values.

    >>> moved = lake.drift(lake.as_of("2024-05-02"), lake.as_of("2024-06-01"), ["inv_total"])
    >>> moved.select(["column", "mean_before", "mean_after"]).to_pylist()
    [{'column': 'inv_total', 'mean_before': 10.0, 'mean_after': 7.833333333333333}]
    """
    check_kind(to)
    moved = _drift(to_arrow(before, "before"), to_arrow(after, "after"), columns=columns, bins=bins)
    return from_arrow(moved, to)


def history_of(
    key: int | str | Sequence[int | str], feature_set: str = "invoice_features", *, to: Kind = "arrow"
) -> Any:
    """Every version of one entity that the lake has, the first version first; none for an entity that it never had.

    `key`: the entity's id, several values for a set whose key has several columns. Of each version the declared
    columns, then

    - `known_from`, `known_until`: when it counted for the lake; null: it still does. Equal: it arrived when a newer
      version was known already, and never counted.
    - `valid_from`, `valid_until`: the same by the source's clock, as known today.
    - `deleted`: the entity went; `origin`: 'observed', or 'reconstructed' (docs/history.md).
    - `changed`: names of the columns that differ from the version before; null for the first, for a deletion, and for
      the version after one.

    >>> lake.history_of(1).select(["inv_total", "changed"]).to_pylist()  # doctest: +NORMALIZE_WHITESPACE
    [{'inv_total': Decimal('10.0000000000'), 'changed': None},
     {'inv_total': Decimal('12.5000000000'), 'changed': ['inv_total']}]
    """
    features = named_feature_set(feature_set)
    check_kind(to)
    values = (key,) if isinstance(key, str) or not isinstance(key, Sequence) else tuple(key)
    with LakeSession(load_settings()) as session:
        return from_arrow(_stamped(session, session.run(session.history(features, values))), to)


def sql(query: str, *, with_personal_data: bool = False, to: Kind = "arrow") -> Any:
    """The rows of one SELECT (DuckDB's dialect) over the lake's tables and views; `trs sql` lists them.

    `with_personal_data`: also `dead_letters` and `accounts_private_changes`, which are left out otherwise.

    >>> lake.sql("SELECT count(*) AS versions FROM invoice_features_history WHERE inv_id = 1").to_pylist()
    [{'versions': 2}]
    """
    check_kind(to)
    with LakeSession(load_settings()) as session:
        return from_arrow(
            _stamped(session, session.run(session.prepare_query(query, with_personal_data=with_personal_data))), to
        )


def _stamped(session: LakeSession, rows: pa.Table) -> pa.Table:
    """The answer with as of when it is, in its schema's metadata."""
    fresh = session.freshness()
    stamp = {"read_at": format_time(fresh.read_at)}
    if fresh.watermark is not None:
        stamp["complete_through"] = format_time(fresh.watermark)
    return rows.replace_schema_metadata({**(rows.schema.metadata or {}), **stamp})


def _times(session: LakeSession, features: FeatureSet, axis: Axis, *times: str | datetime) -> list[datetime]:
    parsed = [_time(session, time) for time in times]
    for warning in session.warnings(features, parsed, axis):
        warnings.warn(warning, stacklevel=3)
    return parsed


def _time(session: LakeSession, time: str | datetime) -> datetime:
    if isinstance(time, str):
        return parse_time(time, now=session.read_at)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _warn_of_labels(session: LakeSession, features: FeatureSet, points: pa.Table) -> None:
    if points.num_rows == 0:
        return
    times, fresh = points[LABEL_TIME], session.freshness()
    warning = fresh.warning(pc.max(times).as_py())
    if warning is not None:
        past = 0 if fresh.watermark is None else pc.sum(pc.greater(times, fresh.watermark)).as_py()
        count = f"; {past} of {points.num_rows} labels lie past it" if past else ""
        warnings.warn(warning + count, stacklevel=3)
    thinned = [zone.end for zone in session.thinned(features) if zone.end is not None]
    early = pc.sum(pc.less_equal(times, max(thinned))).as_py() if thinned else 0
    if early:
        warnings.warn(
            f"{early} of {points.num_rows} labels lie at or before {max(thinned):%Y-%m-%dT%H:%M:%SZ}, where the history"
            " is kept for some moments only: versions that were replaced soon after are missing",
            stacklevel=3,
        )


def _warn_of_emptiness(session: LakeSession, features: FeatureSet, axis: Axis, found: pa.Table) -> None:
    if found.num_rows == 0 or pc.any(found["has_features"]).as_py():
        return
    first = session.first_time(features, axis)
    began = "is empty" if first is None else f"begins at {format_time(first)} ({axis})"
    warnings.warn(f"none of the labels has features: the history of {features.name} {began}", stacklevel=3)
