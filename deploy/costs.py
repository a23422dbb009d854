"""What an installation costs per month, at three sizes, from declared facts, measured constants and dated prices.

    python -m deploy.costs                 # a table per size
    python -m deploy.costs --markdown      # as docs/deploy.md has it
    python -m deploy.costs --backups       # with daily backups into deploy/backups.json's bucket
    python -m deploy.costs --prices FILE   # other prices than deploy/prices.toml

    python -m deploy.costs --lines N --changes-per-day N [--size S] [--workers N] [--interval-s N]  # your own size

What a size needs (workers, requests, hours) is reckoned by processors/capacity.py from measured constants; the formulae
of dollars are the code below, and docs/deploy.md says them in words. What is assumed, an installation replaces by what
it sees. Network between zones, support and taxes are left
out, and so is Aurora, which is there anyhow.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from app.cloudwatch import UNITS
from app.memory import divided
from deploy.service import SIZES, service_template
from deploy.tasks import SCHEDULED, WITH_BACKUPS, Task
from processors.capacity import DAY_S, FOLDED_BYTES, KAFKA_COPIES, Plan, planned
from processors.retention_advice import Prices, load_prices

FILE = Path(__file__).with_name("prices.toml")
HOURS = 730.0
DAYS = 30.4

# --- assumed ---
TOUCHED_PER_CHANGE = 64
"""Folded rows that are rewritten per change, at most: a fold rewrites buckets, not rows."""
READ_SHARE = 1 / 5
"""Of a table's bytes, what a query reads: the columns that it names."""
LOG_BYTES_PER_HOUR = 3_000_000
"""Of one worker."""
TRAVEL_DAYS, UNDO_DAYS = 7, 14
"""TRS_TIME_TRAVEL_DAYS; UndoDays of the foundation."""
EXPIRE_DAYS = 62
"""ExpireDays of the place of backups; UNDO_DAYS are its UndoDays too."""
COPIED_BYTES_PER_S = 50_000_000
"""By a backup, from S3 to S3."""
IMAGE_GB, IMAGES = 0.25, 30
BROKERS = KAFKA_COPIES


@dataclass(frozen=True)
class Scenario:
    """One size. `changes_per_day`: of rows; `queries_per_month`: in Athena; `cdc`: Debezium runs, and no diff;
    `backups`: there is a place for them.

    No `given_workers`, no `interval_s`: as many and as long as fit.
    """

    name: str
    lines: int
    changes_per_day: int
    size: str
    interval_s: float
    queries_per_month: int
    cdc: bool
    given_workers: int = 0
    backups: bool = False

    @property
    def plan(self) -> Plan:
        """What it needs."""
        cpu, memory_mb = SIZES[self.size]
        return planned(
            Plan(
                lines=self.lines,
                changes_per_s=self.changes_per_day / DAY_S,
                workers=self.given_workers,
                interval_s=self.interval_s,
                cores=cpu // 1024,
                memory_mb=state_mb(memory_mb),
                cdc=self.cdc,
            )
        )


def state_mb(memory_mb: int) -> int:
    """What a worker keeps of its task's memory for its state; upkeep is a task of its own."""
    return divided(memory_mb, "the task", partitions=1, max_events=1, children=0).state_mb


SCENARIOS = (
    Scenario("1 million lines", 1_000_000, 10_000, "small", 10, 500, cdc=False),
    Scenario("10 million lines", 10_000_000, 100_000, "medium", 10, 2_000, cdc=True),
    Scenario("1 billion lines", 1_000_000_000, 5_000_000, "huge", 30, 10_000, cdc=True),
)


class ServicePrices(BaseModel):
    """Dollars, with the day on which somebody looked them up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    region: str
    source: str
    fargate_vcpu_hour: float = Field(ge=0)
    fargate_gb_hour: float = Field(ge=0)
    fargate_disk_gb_hour: float = Field(ge=0)
    put_per_1000: float = Field(ge=0)
    broker_hour: float = Field(ge=0)
    broker_gb_month: float = Field(ge=0)
    connect_mcu_hour: float = Field(ge=0)
    log_gb: float = Field(ge=0)
    log_gb_month: float = Field(ge=0)
    metric_month: float = Field(ge=0)
    alarm_month: float = Field(ge=0)
    dashboard_month: float = Field(ge=0)
    key_month: float = Field(ge=0)
    secret_month: float = Field(ge=0)
    registry_gb_month: float = Field(ge=0)


@dataclass(frozen=True)
class Item:
    """One line of an estimate: how much of what, and its dollars per month."""

    name: str
    quantity: float
    unit: str
    dollars: float


def service_prices(path: Path = FILE) -> ServicePrices:
    """The prices of a file. Raises OSError, ValueError."""
    return ServicePrices.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def runs_per_month(expression: str) -> float:
    """How often a timetable of EventBridge Scheduler's is due: `rate(15 minutes)`, or a `cron` of once a day."""
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    if rate is not None:
        return DAYS * {"minute": 1440, "hour": 24, "day": 1}[rate[2]] / int(rate[1])
    if re.fullmatch(r"cron\(\d+ \d+ \* \* \? \*\)", expression):
        return DAYS
    raise ValueError(f"{expression}: neither a rate nor once a day")


def minutes_per_month(task: Task, scenario: Scenario, *, years: float = 1.0) -> float:
    """For how long a scheduled task runs; one that takes longer than its interval runs all the time."""
    assert task.every is not None
    minutes = task.minutes
    if task.database:
        minutes = max(minutes, scenario.plan.diff_s / 60)
    total = runs_per_month(task.every) * minutes
    if task.backs_up:
        total += backup_gb(scenario, years=years) / (EXPIRE_DAYS + UNDO_DAYS) * DAYS * 1e9 / COPIED_BYTES_PER_S / 60
    if task.deletes:
        total += DAYS * scenario.plan.fold_s / 60
    return min(total, HOURS * 60)


def replaced_gb(scenario: Scenario) -> float:
    """GB of folded rows that a day rewrites."""
    folded = scenario.plan.rows * FOLDED_BYTES
    return min(folded, scenario.changes_per_day * FOLDED_BYTES * TOUCHED_PER_CHANGE) / 1e9


def lake_gb(scenario: Scenario, *, years: float) -> tuple[float, float]:
    """GB of the lake after some years: what is current, and what time travel and S3's older versions keep besides."""
    return scenario.plan.lake_gb(years=years), replaced_gb(scenario) * (TRAVEL_DAYS + UNDO_DAYS)


def backup_gb(scenario: Scenario, *, years: float) -> float:
    """GB in the place of backups: all of the lake once a month, what is rewritten every day, until it is gone."""
    per_day = lake_gb(scenario, years=years)[0] / DAYS + replaced_gb(scenario)
    return per_day * (EXPIRE_DAYS + UNDO_DAYS)


def estimate(scenario: Scenario, prices: ServicePrices, storage: Prices, *, years: float = 1.0) -> list[Item]:
    """Dollars per month, item by item, once the lake is `years` old."""
    return [
        *_compute(scenario, prices, years),
        *_store(scenario, prices, storage, years),
        *_watching(scenario, prices),
        *_kafka(scenario, prices),
    ]


def _compute(scenario: Scenario, prices: ServicePrices, years: float) -> Iterator[Item]:
    cpu, memory = SIZES[scenario.size]
    disk = service_template()["Parameters"]["WorkDiskGiB"]["Default"] - 20  # the first 20 are free
    hour = cpu / 1024 * prices.fargate_vcpu_hour + memory / 1024 * prices.fargate_gb_hour
    hour += disk * prices.fargate_disk_gb_hour
    workers = scenario.plan.workers
    yield Item(f"workers ({scenario.size})", workers, "of them", workers * HOURS * hour)
    hours, dollars = 0.0, 0.0
    for task in SCHEDULED:
        if (scenario.cdc and task.name == "diff") or (task.backs_up and not scenario.backups):
            continue
        run = minutes_per_month(task, scenario, years=years) / 60
        hours += run
        dollars += run * (task.cpu / 1024 * prices.fargate_vcpu_hour + task.memory_mb / 1024 * prices.fargate_gb_hour)
    yield Item("scheduled tasks", hours, "hours", dollars)
    if scenario.cdc:
        yield Item("MSK Connect, 1 MCU", HOURS, "hours", HOURS * prices.connect_mcu_hour)


def _store(scenario: Scenario, prices: ServicePrices, storage: Prices, years: float) -> Iterator[Item]:
    current, kept = lake_gb(scenario, years=years)
    yield Item("lake on S3", current, "GB", current * storage.storage_gb_month)
    yield Item("time travel and undo", kept, "GB", kept * storage.storage_gb_month)
    if scenario.backups:
        copied = backup_gb(scenario, years=years)
        yield Item("backups on S3", copied, "GB", copied * storage.storage_gb_month)
    puts, gets = (per_s * HOURS * 3600 for per_s in (scenario.plan.writes_per_s, scenario.plan.gets_per_s))
    yield Item("writing requests, listings", puts / 1e6, "million", puts / 1000 * prices.put_per_1000)
    yield Item("reading requests", gets / 1e6, "million", gets / 1000 * storage.get_per_1000)
    read_gb = max(storage.query_min_mb / 1000, scenario.plan.rows * FOLDED_BYTES * READ_SHARE / 1e9)
    dollars = scenario.queries_per_month * read_gb / 1000 * storage.query_tb_scanned
    yield Item("Athena", scenario.queries_per_month * read_gb / 1000, "TB read", dollars)


def _watching(scenario: Scenario, prices: ServicePrices) -> Iterator[Item]:
    gigabytes = scenario.plan.workers * HOURS * LOG_BYTES_PER_HOUR / 1e9
    yield Item("logs", gigabytes, "GB", gigabytes * (prices.log_gb + prices.log_gb_month))
    alarms = [
        r
        for r in service_template()["Resources"].values()
        if r["Type"] == "AWS::CloudWatch::Alarm" and (scenario.backups or r.get("Condition") != WITH_BACKUPS)
    ]
    metrics = len(UNITS) + scenario.backups
    dollars = metrics * prices.metric_month + len(alarms) * prices.alarm_month + prices.dashboard_month
    yield Item("metrics, alarms, dashboard", metrics + len(alarms), "of them", dollars)
    dollars = (
        (1 + scenario.backups) * prices.key_month
        + 2 * prices.secret_month
        + IMAGE_GB * IMAGES * prices.registry_gb_month
    )
    yield Item("key, secrets, images", 1, "set", dollars)


def _kafka(scenario: Scenario, prices: ServicePrices) -> Iterator[Item]:
    """Of a cluster for this alone. One that is there already costs only what its disks hold more."""
    yield Item("Kafka: brokers (m7g.large)", BROKERS, "of them", BROKERS * HOURS * prices.broker_hour)
    gigabytes = max(1.0, scenario.plan.kafka_gb)
    yield Item("Kafka: disks", gigabytes, "GB", gigabytes * prices.broker_gb_month)


def as_table(scenario: Scenario, items: Sequence[Item], *, markdown: bool) -> str:
    """The estimate as lines of text."""
    total = sum(i.dollars for i in items)
    plan = scenario.plan
    head = (
        f"{scenario.name}, {scenario.changes_per_day:,} changes a day: ${total:,.0f} a month; the first load takes"
        f" {max(1, round(plan.first_load_s / 60))} min at the worker and {plan.first_load_kafka_gb:,.0f} GB of"
        " Kafka's disks"
    )
    if markdown:
        rows = [f"| {i.name} | {i.quantity:,.1f} {i.unit} | {i.dollars:,.2f} |" for i in items]
        return "\n".join([f"**{head}.**\n", "| | quantity | $ a month |", "| --- | ---: | ---: |", *rows])
    rows = [f"  {i.name:<28} {i.quantity:>12,.1f} {i.unit:<8} {i.dollars:>10,.2f}" for i in items]
    return "\n".join([head, *rows])


def _own(given: argparse.Namespace) -> Scenario:
    return Scenario(
        f"{given.lines:,} lines",
        given.lines,
        given.changes_per_day,
        given.size,
        given.interval_s,
        given.queries_per_month,
        cdc=not given.diff,
        given_workers=given.workers,
    )


def main(arguments: Sequence[str]) -> int:
    """Prints the estimates; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.costs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prices", type=Path, default=FILE, help="TOML file of prices like deploy/prices.toml")
    parser.add_argument("--years", type=float, default=1.0, help="age of the lake")
    parser.add_argument("--backups", action="store_true", help="daily, into a bucket of deploy/backups.json")
    own = parser.add_argument_group("your own size")
    own.add_argument("--lines", type=int, help="invoice lines; without it, three sizes are printed")
    own.add_argument("--changes-per-day", type=int, default=100_000, help="of rows")
    own.add_argument("--size", choices=SIZES, default="medium", help="of a worker")
    own.add_argument("--workers", type=int, default=0, help="default: as few as fit")
    own.add_argument("--interval-s", type=float, default=0.0, help="of epochs; default: the shortest that fits")
    own.add_argument("--queries-per-month", type=int, default=2_000, help="in Athena")
    own.add_argument("--diff", action="store_true", help="no change data capture: a diff runs every 15 minutes")
    parser.add_argument("--markdown", action="store_true", help="as a document has it")
    given = parser.parse_args(arguments)
    try:
        prices = service_prices(given.prices)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {given.prices}: {error}\n")
        return 2
    storage = load_prices(None)
    sizes = SCENARIOS if given.lines is None else (_own(given),)
    scenarios = [replace(size, backups=given.backups) for size in sizes]
    parts = [as_table(s, estimate(s, prices, storage, years=given.years), markdown=given.markdown) for s in scenarios]
    dated = f"Prices of {prices.as_of} ({prices.region}); S3 and Athena of {storage.as_of} ({storage.region})."
    sys.stdout.write("\n\n".join([*parts, dated]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
