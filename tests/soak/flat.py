"""Whether a measure stays flat: its line by least squares, and how much that line may rise while it is judged.

A bound is a rise over the judged time rather than per hour, so that a short run does not fail for its noise and a long
one finds small leaks. The greatest lag so far may leave a step behind, since allocators keep what they once needed:
where that is so the line has a step at that time, with a bound of its own. A pool keeps what its busiest moment needed,
whenever that was: its line has the one step that fits best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HOUR_S = 3600.0
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """How much a measure may rise from the begin of the judged time to its end: a share of its mean, and so much.

    `step_share`: how high the step at the peak may be, as a share of the mean; 0: the line has none. `pooled`: how high
    a step of a pool may be, at any time; 0: it is none.
    """

    measure: str
    unit: str
    share: float
    absolute: float
    step_share: float = 0.0
    pooled: float = 0.0

    def allowed(self, mean: float) -> float:
        """The rise that is allowed to a measure of this mean."""
        return self.share * mean + self.absolute


@dataclass(frozen=True)
class Trend:
    """A measure over the judged time. `rise`: of its line, from begin to end, without the `step` at the peak or of a
    pool; `allowed`, `allowed_step`: by its bound."""

    measure: str
    unit: str
    mean: float
    least: float
    most: float
    per_hour: float
    rise: float
    allowed: float
    step: float = 0.0
    allowed_step: float = 0.0

    @property
    def flat(self) -> bool:
        """Falling is flat: only growth fills a machine."""
        return self.rise <= self.allowed and self.step <= self.allowed_step


def trend(bound: Bound, at_s: Sequence[float], values: Sequence[float], *, peak_s: float = 0.0) -> Trend:
    """The trend of values taken at these seconds; `peak_s`: when a step may be, if the bound allows one.

    Raises ValueError for fewer than three: no line can be judged.
    """
    if len(values) < 3:
        raise ValueError(f"{bound.measure}: {len(values)} samples")
    at, taken = np.asarray(at_s, dtype=float), np.asarray(values, dtype=float)
    if bound.pooled > 0:
        slope, step, _ = min((_line(at, taken, step_s) for step_s in at[:-1]), key=lambda line: line[2])
    else:
        slope, step, _ = _line(at, taken, peak_s if bound.step_share > 0 else None)
    mean = float(taken.mean())
    return Trend(
        measure=bound.measure,
        unit=bound.unit,
        mean=mean,
        least=float(taken.min()),
        most=float(taken.max()),
        per_hour=slope * _HOUR_S,
        rise=slope * float(at[-1] - at[0]),
        allowed=bound.allowed(mean),
        step=step,
        allowed_step=bound.pooled or bound.step_share * mean,
    )


def _line(at: _Values, taken: _Values, step_s: float | None) -> tuple[float, float, float]:
    """Slope per second, height of the step right after `step_s`, and the sum of the squares that the line misses by."""
    columns = [np.ones_like(at), at - at[0]]
    if step_s is not None:
        columns.append((at > step_s).astype(float))
    fitted = np.column_stack(columns)
    found = np.linalg.lstsq(fitted, taken, rcond=None)[0]
    return float(found[1]), float(found[2]) if step_s is not None else 0.0, float(((fitted @ found - taken) ** 2).sum())
