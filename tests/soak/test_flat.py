"""What the soak calls flat, on series made up with and without a leak."""

import numpy as np
import pytest

from tests.soak.flat import Bound, Trend, trend
from tests.soak.samples import Series

MEMORY = Bound("memory", "MB", share=0.1, absolute=20)
AT_S = np.arange(0, 1350, 2.0)
NOISE = np.random.default_rng(7).normal(0, 15, AT_S.size)


@pytest.mark.parametrize("seconds", [60, 1350])
def test_noise_about_a_level_is_flat(seconds: int) -> None:
    at_s = AT_S[: seconds // 2]
    found = trend(MEMORY, at_s, 400 + NOISE[: at_s.size])
    assert found.flat
    assert found.allowed == pytest.approx(60, abs=1)


def test_leak_beyond_the_bound_is_found_with_its_slope() -> None:
    found = trend(MEMORY, AT_S, 400 + NOISE + 300 * AT_S / 3600)
    assert not found.flat
    assert found.per_hour == pytest.approx(300, rel=0.1)
    assert found.rise == pytest.approx(300 * AT_S[-1] / 3600, rel=0.1)


def test_small_leak_passes_a_short_run_and_fails_a_long_one() -> None:
    leak_per_s = 120 / 3600
    long_s = np.arange(0, 4 * 3600, 10.0)
    assert trend(MEMORY, AT_S, 400 + NOISE + leak_per_s * AT_S).flat
    assert not trend(MEMORY, long_s, 400 + leak_per_s * long_s).flat


def test_peak_in_the_middle_and_saw_teeth_are_flat_and_so_is_what_falls() -> None:
    peak = np.where(abs(AT_S - AT_S.mean()) < 60, 300.0, 0.0)
    assert trend(MEMORY, AT_S, 400 + NOISE + peak).flat
    assert trend(Bound("files", "", share=0, absolute=5), AT_S, AT_S % 64).flat
    assert trend(MEMORY, AT_S, 1000 - AT_S / 10).flat


def test_step_that_stays_after_the_peak_is_a_leak() -> None:
    assert not trend(MEMORY, AT_S, 400 + NOISE + np.repeat([0.0, 100.0], [337, 338])).flat


def test_step_at_the_peak_has_a_bound_of_its_own_and_does_not_hide_a_leak() -> None:
    bound = Bound("memory", "MB", share=0.1, absolute=20, step_share=0.2)
    peak_s = (AT_S[336] + AT_S[337]) / 2

    def found(step: float, leak_per_h: float) -> Trend:
        stepped = 400 + NOISE + np.repeat([0.0, step], [337, 338]) + leak_per_h * AT_S / 3600
        return trend(bound, AT_S, stepped, peak_s=peak_s)

    assert found(60, 0).flat
    assert found(60, 0).step == pytest.approx(60, abs=5)
    assert not found(120, 0).flat
    assert not found(60, 300).flat
    assert found(60, 300).per_hour == pytest.approx(300, rel=0.15)


@pytest.mark.parametrize("begin", [20, 100, 337, 600, 660])
def test_pool_that_fills_once_is_flat_whenever_it_does_and_too_large_a_step_is_not(begin: int) -> None:
    bound = Bound("threads", "", share=0, absolute=3, pooled=10)

    def found(step: float) -> Trend:
        return trend(bound, AT_S, 98 + abs(np.round(NOISE / 15)) + np.where(np.arange(AT_S.size) >= begin, step, 0))

    assert found(8).flat
    assert found(8).step == pytest.approx(8, abs=1)
    assert abs(found(8).rise) < 1
    assert not found(14).flat


@pytest.mark.parametrize("every_s", [60, 300])
def test_threads_that_are_lost_one_by_one_or_in_several_steps_are_a_leak(every_s: int) -> None:
    bound = Bound("threads", "", share=0, absolute=3, pooled=10)
    assert not trend(bound, AT_S, 98 + AT_S // every_s).flat
    assert not trend(bound, AT_S, 98 + 4 * (AT_S // 300)).flat


def test_two_samples_are_no_trend() -> None:
    with pytest.raises(ValueError, match="memory: 2 samples"):
        trend(MEMORY, [0.0, 1.0], [1.0, 2.0])


def test_part_of_a_series_leaves_out_the_warm_up_and_the_peak() -> None:
    series = Series()
    for at_s in range(10):
        series.add(at_s, at_s * 10.0)
    assert series.within(2, 8, without=(4, 6)).at_s == [2, 3, 7, 8]
    assert series.within(2, 8, without=(4, 6)).values == [20, 30, 70, 80]
