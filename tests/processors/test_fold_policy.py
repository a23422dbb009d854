"""When folding pays, and how far it may go: pure functions."""

from dataclasses import dataclass

import pytest

from processors.fold import FoldPolicy, all_that_waits, reach

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("waiting", "folded", "age_s", "due"),
    [
        (0, 0, 0.0, False),
        (99_999, 0, 0.0, False),
        (100_000, 0, 0.0, True),
        (100_000, 400_000, 0.0, True),
        (100_000, 400_001, 0.0, False),
        (2_499_999, 10_000_000, DAY_S - 1, False),
        (2_500_000, 10_000_000, 0.0, True),
        (1, 10_000_000, DAY_S, True),
        (0, 10_000_000, 9 * DAY_S, False),
    ],
)
def test_table_is_due_when_a_share_of_it_is_new_or_its_oldest_fold_is_a_day_old(
    waiting: int, folded: int, age_s: float, due: bool
) -> None:
    assert FoldPolicy().table_is_due(waiting=waiting, folded=folded, age_s=age_s) is due


@pytest.mark.parametrize(
    ("waiting", "folded", "age_s", "due"),
    [(24, 100, 0.0, False), (25, 100, 0.0, True), (0, 100, DAY_S - 1, False), (0, 100, DAY_S, True)],
)
def test_bucket_of_a_due_table_is_due_by_its_own_share_and_age(
    waiting: int, folded: int, age_s: float, due: bool
) -> None:
    assert FoldPolicy().bucket_is_due(waiting=waiting, folded=folded, age_s=age_s) is due


def test_due_table_has_a_bucket_that_is_due() -> None:
    policy = FoldPolicy(min_rows=1)
    for waiting, folded in (((9, 0), (12, 24)), ((0, 9), (36, 0)), ((3, 3), (12, 12))):
        assert policy.table_is_due(waiting=sum(waiting), folded=sum(folded), age_s=0.0)
        pairs = zip(waiting, folded, strict=True)
        assert any(policy.bucket_is_due(waiting=w, folded=f, age_s=0.0) for w, f in pairs)


def test_fold_by_hand_takes_all_that_waits_from_min_rows_on() -> None:
    assert all_that_waits().table_is_due(waiting=1, folded=10**9, age_s=0.0)
    assert all_that_waits().bucket_is_due(waiting=0, folded=10**9, age_s=0.0)
    assert not all_that_waits(10).table_is_due(waiting=9, folded=0, age_s=9 * DAY_S)


@dataclass
class Written:
    """What a year of steady changes to a table costs: rows that folds wrote, and the longest tail."""

    rows: int = 0
    longest_tail: int = 0


def simulate(policy: FoldPolicy, *, keys: int, rows_per_s: int, seconds: int) -> Written:
    """Changes of existing keys come steadily; the policy is asked once a minute."""
    done, waiting, folded_at_s = Written(), 0, 0
    for now_s in range(0, seconds, 60):
        waiting += 60 * rows_per_s
        done.longest_tail = max(done.longest_tail, waiting)
        if policy.table_is_due(waiting=waiting, folded=keys, age_s=now_s - folded_at_s):
            done.rows, waiting, folded_at_s = done.rows + keys, 0, now_s
    return done


def test_large_table_is_written_a_few_times_per_change_instead_of_a_hundred() -> None:
    keys, rows_per_s, seconds = 10_000_000, 500, int(DAY_S)
    changes = rows_per_s * seconds
    by_count = simulate(FoldPolicy(share_percent=0.0), keys=keys, rows_per_s=rows_per_s, seconds=seconds)
    by_share = simulate(FoldPolicy(), keys=keys, rows_per_s=rows_per_s, seconds=seconds)
    assert by_count.rows > 80 * changes
    assert by_share.rows <= 4 * changes
    assert by_share.longest_tail <= 0.26 * keys


def test_reach_is_the_slowest_cursor_and_never_beyond_the_log() -> None:
    assert reach({0: 5, 1: 7, 2: 3}, None) == {0: 5, 1: 7, 2: 3}
    assert reach({0: 5, 1: 7, 2: 3}, {0: 4, 1: 9}) == {0: 4, 1: 7, 2: 0}
