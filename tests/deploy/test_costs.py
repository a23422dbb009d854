"""The estimate: every price and every fact counts, and nothing is counted that does not run."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backups import backups_template
from deploy.costs import (
    EXPIRE_DAYS,
    SCENARIOS,
    UNDO_DAYS,
    Item,
    ServicePrices,
    backup_gb,
    estimate,
    lake_gb,
    main,
    minutes_per_month,
    runs_per_month,
    service_prices,
    state_mb,
)
from deploy.service import SIZES
from deploy.tasks import SCHEDULED, WORKER
from processors.capacity import STATE_MB
from processors.retention_advice import load_prices

PRICES, STORAGE = service_prices(), load_prices(None)
FIELDS = [name for name, field in ServicePrices.model_fields.items() if field.annotation is float]
SMALL, MIDDLE, LARGE = SCENARIOS


def total(items: list[Item]) -> float:
    return sum(item.dollars for item in items)


@pytest.mark.parametrize("name", FIELDS)
def test_every_price_counts_in_proportion(name: str) -> None:
    with_cdc = estimate(MIDDLE, PRICES, STORAGE)
    free = total(estimate(MIDDLE, PRICES.model_copy(update={name: 0.0}), STORAGE))
    twice = total(estimate(MIDDLE, PRICES.model_copy(update={name: 2 * getattr(PRICES, name)}), STORAGE))
    assert free < total(with_cdc) < twice
    assert twice - total(with_cdc) == pytest.approx(total(with_cdc) - free)


def test_each_size_costs_more_than_the_one_before_and_each_year_more_than_the_last() -> None:
    totals = [total(estimate(s, PRICES, STORAGE)) for s in SCENARIOS]
    assert totals == sorted(totals)
    for scenario in SCENARIOS:
        assert lake_gb(scenario, years=1) < lake_gb(scenario, years=3)


def test_first_load_of_twice_the_rows_takes_twice_as_long_on_as_many_workers() -> None:
    twice = replace(SMALL, lines=2 * SMALL.lines)
    assert SMALL.plan.workers == twice.plan.workers == 1
    assert twice.plan.first_load_s == pytest.approx(2 * SMALL.plan.first_load_s)
    assert twice.plan.first_load_kafka_gb == pytest.approx(2 * SMALL.plan.first_load_kafka_gb)


def test_diff_runs_without_change_data_capture_and_debezium_with_it() -> None:
    def hours(items: list[Item], name: str) -> float:
        return sum(item.quantity for item in items if item.name.startswith(name))

    without, with_cdc = (estimate(replace(SMALL, cdc=on), PRICES, STORAGE) for on in (False, True))
    diff = next(t for t in SCHEDULED if t.name == "diff")
    saved = hours(without, "scheduled") - hours(with_cdc, "scheduled")
    assert saved == pytest.approx(minutes_per_month(diff, SMALL) / 60)
    assert (hours(without, "MSK Connect"), hours(with_cdc, "MSK Connect")) == (0, 730)


def test_backups_cost_their_task_their_files_their_key_and_their_alarm_and_without_a_place_nothing() -> None:
    for scenario in SCENARIOS:
        without, with_them = (estimate(replace(scenario, backups=on), PRICES, STORAGE) for on in (False, True))
        dearer = {item.name for item in with_them if item not in without}
        assert dearer == {"backups on S3", "scheduled tasks", "metrics, alarms, dashboard", "key, secrets, images"}
        assert total(with_them) > total(without)
        assert backup_gb(scenario, years=1) > lake_gb(scenario, years=1)[0]


def test_state_has_what_the_worker_of_each_size_gives_it() -> None:
    assert {size: state_mb(memory_mb) for size, (_, memory_mb) in SIZES.items() if size in STATE_MB} == STATE_MB
    assert WORKER.environment["TRS_UPKEEP_BUDGET_PERCENT"] == "0"
    assert "TRS_RECONCILE_EVERY" not in WORKER.environment
    assert not {"TRS_MEMORY_MB", "TRS_MEMORY_BUDGET_MB"} & WORKER.environment.keys()
    assert SMALL.plan.memory_mb == state_mb(SIZES["small"][1])


def test_backups_are_kept_as_long_as_their_template_says() -> None:
    days = backups_template()["Parameters"]
    assert (days["ExpireDays"]["Default"], days["UndoDays"]["Default"]) == (EXPIRE_DAYS, UNDO_DAYS)


def test_task_that_takes_longer_than_its_interval_runs_all_the_time_and_no_more() -> None:
    diff = next(t for t in SCHEDULED if t.name == "diff")
    assert minutes_per_month(diff, LARGE) == 730 * 60


def test_timetables_of_all_tasks_are_understood_and_others_refused() -> None:
    assert all(runs_per_month(task.every) >= 30 for task in SCHEDULED if task.every is not None)
    assert runs_per_month("rate(1 hour)") == pytest.approx(30.4 * 24)
    with pytest.raises(ValueError, match="neither"):
        runs_per_month("cron(0 0 1 * ? *)")


def test_command_dates_its_prices_and_refuses_a_file_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(scenario.name in told for scenario in SCENARIOS)
    assert f"Prices of {PRICES.as_of}" in told
    wrong = tmp_path / "prices.toml"
    wrong.write_text("region = 'x'\n")
    assert main(["--prices", str(wrong)]) == 2
    assert "wrong" not in capsys.readouterr().out


def test_document_has_the_estimate_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--markdown"])
    printed = capsys.readouterr().out
    document = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert printed.strip() in document, "python -m deploy.costs --markdown"
    more = [
        total(estimate(replace(s, backups=True), PRICES, STORAGE)) - total(estimate(s, PRICES, STORAGE))
        for s in SCENARIOS
    ]
    assert "(`python -m deploy.costs --backups`) add ${:.2f}, ${:.2f} and ${:.2f}".format(*more) in document
