"""Workers that share a consumer group on a real broker: who owns what, and who waits for whom."""

from app.settings import Settings
from tests.app.worker_process import Ledger, Start, caught_up, ends, produce, share
from tests.waiting import wait_until


def test_workers_join_and_die_share_equal_buckets_of_all_topics_and_lose_nothing(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    produce(settings, "invoices", 2000)
    first = start()
    wait_until(lambda: share(ledger, first), timeout_s=90, what="one worker owns all")
    second = start()
    produce(settings, "invoice_line_items", 2000)
    wait_until(lambda: share(ledger, first, second), timeout_s=90, what="two workers share")
    assert len(ledger.buckets(first.pid) or ()) == 2
    third = start()
    produce(settings, "accounts", 2000)
    wait_until(lambda: share(ledger, first, second, third), timeout_s=90, what="three workers share")

    second.kill()
    produce(settings, "invoices", 2000)

    wait_until(lambda: share(ledger, first, third), timeout_s=90, what="the others take over")
    wait_until(lambda: caught_up(settings, ledger), timeout_s=30, what="everything is read")
    offsets = ledger.offsets()
    for place, end in ends(settings).items():
        assert offsets.get(place, []) == list(range(end)), place
    assert first.stop() == 0, first.log
    assert third.stop() == 0, third.log


def test_worker_after_one_that_was_killed_says_that_it_waits_for_the_group(ledger: Ledger, start: Start) -> None:
    killed = start(session_timeout_s=60.0)
    wait_until(lambda: share(ledger, killed), timeout_s=90, what="one worker owns all")
    killed.kill()
    successor = start(session_timeout_s=60.0)
    wait_until(lambda: "waiting for the consumer group" in successor.log, timeout_s=60, what="it says so")
    assert "session_s=60.0" in successor.log
    assert "assigned" not in successor.log


def test_workers_more_than_partitions_the_idle_one_is_ready_and_takes_over(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    workers = [start() for _ in range(5)]
    wait_until(
        lambda: (
            sorted(len(ledger.buckets(w.pid) or ()) for w in workers if ledger.buckets(w.pid) is not None)
            == [0, 1, 1, 1, 1]
        ),
        timeout_s=150,
        what="five workers share four buckets",
    )
    busy = next(w for w in workers if ledger.buckets(w.pid))

    assert busy.stop() == 0, busy.log

    rest = [w for w in workers if w is not busy]
    wait_until(lambda: share(ledger, *rest), timeout_s=90, what="the idle worker takes over")


def test_rebalance_revoke_comes_before_assign_and_after_the_commit_in_flight(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    produce(settings, "invoices", 2000)
    first = start("--slow-commit", "2")
    wait_until(lambda: share(ledger, first), timeout_s=90, what="one worker owns all")
    second = start("--slow-commit", "2")
    wait_until(lambda: share(ledger, first, second), timeout_s=90, what="two workers share")

    names = [n for (n,) in ledger.rows(f"SELECT name FROM calls WHERE pid = {first.pid} ORDER BY rowid")]
    assert names == ["start", "assign", "revoke", "assign"]
    wait_until(lambda: caught_up(settings, ledger), timeout_s=60, what="everything is read")
    for place, end in ends(settings).items():
        assert ledger.offsets().get(place, []) == list(range(end))
