"""Whether a measure stays flat: its line by least squares, and how much that line may rise while it is judged.

A bound is a rise over the judged time rather than per hour, so that a short run does not fail for its noise and a long
one finds small leaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Bound:
    """How much a measure may rise from the begin of the judged time to its end: a share of its mean, and so much."""

    measure: str
    unit: str
    share: float
    absolute: float

    def allowed(self, mean: float) -> float:
        """The rise that is allowed to a measure of this mean."""
        return self.share * mean + self.absolute


@dataclass(frozen=True)
class Trend:
    """A measure over the judged time. `rise`: of its line, from begin to end; `allowed`: by its bound."""

    measure: str
    unit: str
    mean: float
    least: float
    most: float
    per_hour: float
    rise: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Falling is flat: only growth fills a machine."""
        return self.rise <= self.allowed


def trend(bound: Bound, at_s: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of values taken at these seconds. Raises ValueError for fewer than three: no line can be judged."""
    if len(values) < 3:
        raise ValueError(f"{bound.measure}: {len(values)} samples")
    at, taken = np.asarray(at_s, dtype=float), np.asarray(values, dtype=float)
    slope = float(np.polyfit(at - at[0], taken, deg=1)[0])
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
    )
