"""`trs bootstrap diff` and `trs reconcile` as commands: what is refused at once, and going on and on."""

import time
from itertools import pairwise

import pytest

from app.cli.diff import _again_and_again, interval
from app.durations import seconds
from processors.errors import RetryableError, SourceError, UnavailableError, UsageError
from tests.app.commands import trs


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("15m", 900), ("2h", 7200)])
def test_interval_is_in_seconds(text: str, expected: float) -> None:
    assert interval(text) == seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "0m", "-5m", "5 m", "1.5h", "5d", "5m "])
def test_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="as 90s, 15m or 1h"):
        interval(text)


def test_worker_refuses_a_wrong_interval_of_reconciliation() -> None:
    answer = trs("settings", TRS_RECONCILE_EVERY="often")
    assert answer.code == 2
    assert "TRS_RECONCILE_EVERY" in answer.err


@pytest.mark.parametrize("command", [("bootstrap", "diff"), ("reconcile",)])
def test_source_that_is_none_is_refused(command: tuple[str, ...]) -> None:
    answer = trs(*command, "--source", "ftp://x", TRS_DATABASE="mysql://u:secret@h/db")
    assert answer.code == 2
    assert "is none of" in answer.err
    assert "secret" not in answer.err


def test_runs_go_on_after_passing_faults_until_they_are_stopped() -> None:
    runs, told = iter([RetryableError("busy"), None, UnavailableError("away"), None]), []
    done: list[float] = []

    def once() -> bool:
        fault = next(runs)
        done.append(time.monotonic())
        if fault is not None:
            raise fault
        return True

    ended = _again_and_again(
        once, 0.05, stopped=lambda: len(done) == 4, passing=(RetryableError, UnavailableError), tell=told.append
    )
    assert ended
    assert [t.partition(";")[0] for t in told] == ["busy", "away"]
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(done))


def test_runs_end_with_a_fault_that_does_not_pass_and_with_a_run_that_was_stopped() -> None:
    def wrong() -> bool:
        raise SourceError("no such table")

    with pytest.raises(SourceError):
        _again_and_again(wrong, 60, stopped=lambda: False, passing=(RetryableError,), tell=print)
    assert not _again_and_again(lambda: False, 60, stopped=lambda: True, passing=(RetryableError,), tell=print)
