"""A short run of `make chaos`, always the same; and the plan that a seed makes."""

import collections
from pathlib import Path

import pytest

from tests.chaos.faults import Kind, plan
from tests.chaos.run import Run

SEED, FAULTS = 17771, 6
"""A kill, a full disk, a zombie, lost answers of S3, a fold that is killed, a broker that is killed."""


def test_plan_of_a_seed_is_the_same_again_and_another_one_differs() -> None:
    def first(seed: int) -> list[object]:
        return list(plan(seed, 60, session_timeout_s=6))

    assert first(1) == first(1) != first(2)


def test_plan_of_some_length_meets_every_kind_but_those_left_out() -> None:
    met = collections.Counter(p.kind for p in plan(3, 2 * 25, session_timeout_s=6))
    assert set(met) == set(Kind)
    assert min(met.values()) == 2
    assert Kind.ZOMBIE not in {p.kind for p in plan(3, 60, session_timeout_s=6, without=[Kind.ZOMBIE])}


def test_zombies_sleep_longer_than_their_session() -> None:
    assert all(p.lasts_s > 6 for p in plan(5, 200, session_timeout_s=6) if p.kind is Kind.ZOMBIE)


@pytest.mark.stack
@pytest.mark.timeout(900)
def test_lake_after_some_faults_is_sound_and_equals_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    # Each round of upkeep is a process: at the rate of the long run they take half of all the time.
    outcome = Run(folder, seed=SEED, faults=FAULTS, rate=10, tell=print, upkeep_every="12s").run()
    assert outcome.problems == []
    assert outcome.faults.total() == FAULTS
