"""How far a feature's values moved between two samples: the population stability index (PSI).

    PSI = sum over bins of (share after - share before) x ln(share after / share before)

It is 0 for equal shares and grows with the difference, in either direction; below 0.1 is usually called stable, above
0.25 a shift (Siddiqi, Credit Risk Scorecards, 2006). By chance alone samples of n and m rows of one distribution have
about (bins - 1) x (1/n + 1/m). The bins hold equal numbers of the earlier sample, nulls have one of their own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from processors.errors import UsageError
from processors.features.declarations import FEATURE_SETS

_FIGURES = ("psi", "mean_before", "null_share_before", "mean_after", "null_share_after")
_SCHEMA = pa.schema([("column", pa.string()), *((name, pa.float64()) for name in _FIGURES)])
Floats = npt.NDArray[np.float64]
_HALF = 0.5
"""Added to each count, so that an empty bin has a share: half a row that may yet come."""


def psi(before: Floats, after: Floats, *, bins: int = 10) -> float:
    """The index between two samples of one feature; NaN is null. NaN where one of them has no rows.

    `bins`: at most so many for values; equal values are never parted, so few distinct ones have fewer bins.
    """
    if bins < 2:
        raise ValueError(f"bins={bins}: at least 2")
    if before.size == 0 or after.size == 0:
        return float("nan")
    known = before[~np.isnan(before)]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner, method="inverted_cdf")) if known.size else np.array([], dtype=float)
    counts = np.stack([_counts(before, edges), _counts(after, edges)])
    counts = counts[:, counts.any(axis=0)] + _HALF
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _counts(values: Floats, edges: Floats) -> Floats:
    """Of each bin (up to and with its edge; beyond the last edge; null) the number of values."""
    known = values[~np.isnan(values)]
    found = np.bincount(np.searchsorted(edges, known, side="left"), minlength=edges.size + 1)
    return np.append(found, values.size - known.size).astype(float)


def drift(before: pa.Table, after: pa.Table, *, columns: Sequence[str] | None = None, bins: int = 10) -> pa.Table:
    """Per column `column`, `psi`, and of each table the mean of what is not null and the share of nulls.

    The greatest index comes first. `columns`: by default every number of both tables that no feature set has for an
    identifier. Raises UsageError for a column that is not a number in both, and for fewer than 2 bins.
    """
    if bins < 2:
        raise UsageError(f"bins={bins}: at least 2")
    numbers = [f.name for f in before.schema if _is_number(f) and f.name in after.schema.names]
    numbers = [name for name in numbers if _is_number(after.schema.field(name))]
    ids = {name for f in FEATURE_SETS for name in (*f.entity_key, f.owner_column)}
    wanted = [name for name in numbers if name not in ids] if columns is None else columns
    for name in wanted:
        if name not in numbers:
            raise UsageError(f"`{name}` is not a number in both frames", hint=f"there are {', '.join(numbers)}")
    rows = [_row(name, before[name], after[name], bins) for name in wanted]
    return pa.Table.from_pylist(rows, schema=_SCHEMA).sort_by([("psi", "descending")])


def _row(name: str, before: pa.ChunkedArray, after: pa.ChunkedArray, bins: int) -> dict[str, object]:
    samples = {"before": _floats(before), "after": _floats(after)}
    row: dict[str, object] = {"column": name, "psi": psi(samples["before"], samples["after"], bins=bins)}
    for when, sample in samples.items():
        known = sample[~np.isnan(sample)]
        row[f"mean_{when}"] = float(known.mean()) if known.size else None
        row[f"null_share_{when}"] = (sample.size - known.size) / sample.size if sample.size else None
    return row


def _is_number(field: pa.Field) -> bool:
    kind = field.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _floats(column: pa.ChunkedArray) -> Floats:
    cast = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(cast.to_numpy(zero_copy_only=False), dtype=np.float64)
