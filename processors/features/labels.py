"""Labels: the points (entity, time) at which a training set asks for features."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from processors.errors import UsageError
from processors.features.declarations import FeatureSet
from processors.records import TIMESTAMP

ROW_NUMBER = "row_number"
LABEL_TIME = "label_time"
ABOUT_FEATURES = ("known_from", "valid_from", "has_features")
"""What a training set says of the row that it took, after the features."""


def label_points(
    labels: pa.Table, feature_set: FeatureSet, *, entity: str | Sequence[str] | None, time: str
) -> pa.Table:
    """One row per label: `row_number` (from 0), the set's key columns in their types, `label_time` (UTC).

    `entity`: the labels' columns of the key in the order of the key, by default those of the same names. A time without
    a zone is UTC, a date is its first moment; what is finer than a microsecond is cut off. Raises UsageError for
    columns with nulls, or of a type that does not stand for a key or a time.
    """
    names = key_columns(feature_set, entity)
    columns: dict[str, object] = {ROW_NUMBER: pa.array(range(labels.num_rows), pa.int64())}
    types = {c.name: c.arrow_type for c in feature_set.columns}
    for key, name in zip(feature_set.entity_key, names, strict=True):
        columns[key] = _as_key(name, _column(labels, name), types[key])
    columns[LABEL_TIME] = _as_time(time, _column(labels, time))
    return pa.table(columns)


def key_columns(feature_set: FeatureSet, entity: str | Sequence[str] | None) -> tuple[str, ...]:
    """The labels' columns of the key, in its order; see `label_points`."""
    names = feature_set.entity_key if entity is None else (entity,) if isinstance(entity, str) else tuple(entity)
    if len(names) != len(feature_set.entity_key):
        key = ", ".join(feature_set.entity_key)
        raise UsageError(f"entity={entity!r}: {feature_set.name} has the key {key}", hint="name a column for each")
    return names


def check_names(columns: Sequence[str], feature_set: FeatureSet, *, asked: Sequence[str], prefix: str) -> None:
    """Raises UsageError where labels of these columns lack one that is asked for, have it twice, or have one of the
    name of one that is to be added.
    """
    for name in asked:
        if list(columns).count(name) != 1:
            state = "no column" if name not in columns else "several columns"
            raise UsageError(
                f"the labels have {state} `{name}`",
                hint=f"they have {', '.join(map(str, columns))}; entity= and time= say which to use",
            )
    added = [prefix + name for name in (*value_columns(feature_set), *ABOUT_FEATURES)]
    taken = [name for name in added if name in columns]
    if taken:
        raise UsageError(
            f"the labels have a column `{taken[0]}` already, and the features would add one",
            hint="rename it, or give a prefix for the features: prefix='f_'",
        )


def value_columns(feature_set: FeatureSet) -> tuple[str, ...]:
    """The declared columns without the key."""
    return tuple(name for name in feature_set.column_names if name not in feature_set.entity_key)


def _column(labels: pa.Table, name: str) -> pa.ChunkedArray:
    column = labels.column(name)
    if column.null_count:
        first = pc.index(pc.is_null(column, nan_is_null=False), True).as_py()
        raise UsageError(
            f"labels: {column.null_count} rows have no `{name}`, the first is row {first}",
            hint="leave them out: without it nothing can be asked",
        )
    return column


def _as_key(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # Text as a number, or a number as text, would be a guess; within a family a cast is exact or refused.
    if _family(column.type) != _family(kind):
        raise UsageError(f"labels: `{name}` is {column.type}, the key is {kind}", hint=f"cast it to {kind}")
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"labels: `{name}` does not fit the key's type {kind}: {str(error).splitlines()[0]}") from None


def _family(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    return "time" if types.is_date(kind) or types.is_timestamp(kind) else str(kind)


def _as_time(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_timestamp(kind) and not pa.types.is_date(kind):
        raise UsageError(
            f"labels: `{name}` is {kind}, not a time", hint="make timestamps of it, UTC if they have no zone"
        )
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    elif kind.unit == "ns":
        # Down, never up: a label must not see what came after it.
        column = pc.floor_temporal(column, unit="microsecond")
    try:
        return column.cast(pa.timestamp("us", column.type.tz)).cast(TIMESTAMP)
    except pa.ArrowInvalid as error:
        raise UsageError(f"labels: `{name}` has a time that is out of the calendar: {error}") from None
