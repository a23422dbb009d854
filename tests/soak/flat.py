"""Whether a measure stays flat: its line by least squares, and how much that line may rise while it is judged.

A bound is a rise over the judged time rather than per hour, so that a short run does not fail for its noise and a long
one finds small leaks. The greatest lag so far may leave a step behind, since allocators keep what they once needed:
where that is so the line has a step at that time, with a bound of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Bound:
    """How much a measure may rise from the begin of the judged time to its end: a share of its mean, and so much.

    `step_share`: how high the step at the peak may be, as a share of the mean; 0: the line has none.
    """

    measure: str
    unit: str
    share: float
    absolute: float
    step_share: float = 0.0

    def allowed(self, mean: float) -> float:
        """The rise that is allowed to a measure of this mean."""
        return self.share * mean + self.absolute


@dataclass(frozen=True)
class Trend:
    """A measure over the judged time. `rise`: of its line, from begin to end, without the `step` at the peak;
    `allowed`, `allowed_step`: by its bound."""

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
    columns = [np.ones_like(at), at - at[0]]
    if bound.step_share > 0:
        columns.append((at > peak_s).astype(float))
    _, slope, *steps = np.linalg.lstsq(np.column_stack(columns), taken, rcond=None)[0].tolist()
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
        step=steps[0] if steps else 0.0,
        allowed_step=bound.step_share * mean,
    )
