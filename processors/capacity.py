"""How far an installation reaches: what it needs at a size, which limit comes first (`trs capacity`, docs/capacity.md).

    python -m processors.capacity          # the tables of docs/capacity.md

Everything is computed from measured constants, each with the command that measures it, and a few documented limits of
AWS's. What the measurements do not cover (more than 64 writers, more than ten million lines) is extrapolated along the
formulae below; docs/capacity.md says which.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from processors.engine import look_every_s

DAY_S = 86_400.0

# --- measured; docs/performance.md has the runs and the machine (2 cores) ---
EVENT_BYTES = 475
"""A row event as JSON. `python -m benchmarks --only decode`."""
LOADS_PER_S = 150_000
"""Events that a worker of two cores takes per second in a backlog: 180,000 less what S3 costs more than a folder.
`python -m benchmarks --only catch_up`."""
EVENTS_PER_CORE_S = 70_000
"""Corrected lines that one core takes to committed features per second: 898,502 in 12.8 CPU s.
`python -m benchmarks --only workers`."""
EPOCH_S = 0.39
EPOCH_S_PER_LINE = 1.5e-8
"""Seconds of an epoch of 1,000 changes on S3: a line near 0.37 at 101,000 lines, 0.45 at 1,011,000, 0.53 at 10,096,000.
`python -m benchmarks --long --only epochs`."""
LAKE_BYTES = 160
"""Written to the lake per change, Delta's log included. `python -m benchmarks --only epochs`."""
STATE_BYTES = 180
"""Of a worker's state per line, in memory or spilled: 1.8 GB for 10 million lines, all tables of both stages.
`python -m benchmarks --long --only recovery`."""
RECOVERED_PER_S = 1_300_000
"""Rows of state that a worker loads per second: 2,250,320 invoices and 10,096,234 lines in 9.5 s. The same command."""
SPILLED_RECOVERY = 3.4
"""How many times longer it takes where the state exceeds its memory. The same, with `--memory-mb 150`."""
COMPARED_PER_S = 77_000
"""Lines that a diff or a check compares per second: 10 million in 131 s. `python -m benchmarks --long --only diff`."""
SNAPSHOT_PER_S = 16_000
"""Rows that a snapshot reads from the database and sends per second: 325,941 in 19.8 s beside other work (load 18).
`trs generate --invoices 50000 --to mysql && trs bootstrap snapshot --source mysql`."""
FILES_PER_EPOCH = 6
"""And as many commits: the logs of A and B, two tables of features, two of `epochs`. The epochs benchmark."""
GETS_PER_COMMIT = 5.75
GETS_SINCE_CHECKPOINT, OTHERS_SINCE_CHECKPOINT = 3.0, 6
"""Reading requests of a commit: of itself, and for those of others' commits since the writer's own last that lie beyond
the newest checkpoint; besides, Delta and our fence read each of them. Within 5 % of what 1 to 64 writers did.
`python -m benchmarks --long --only commits`."""
WRITES_PER_COMMIT = 2.2
"""Writing requests: a file, an entry of the log, a checkpoint and its mark per ten commits. The same."""
LISTS_PER_COMMIT = 3.1
"""Listings, which AWS bills as writing requests. The same."""
COMMITS_PER_S = 8.0
"""Commits per second of 8 writers at which 95 of 100 took up to 3.5 s (docs/performance.md, "Several workers"); more
writers make it no more. The same."""
CHECKPOINT_BYTES = 1_300
"""Of a checkpoint per active file of `invoice_log`. The same."""

# --- of AWS and of the deployment ---
S3_GETS_PER_S = 5_500
"""Reads per second of one prefix of S3 that AWS promises at least ("Best practices design patterns", S3's manual)."""
OTHERS_FOLLOWED = 50
"""Of others' commits the fence reads no more: `_FOLLOWED` in connectors/lake.py."""
STATE_MB = {"medium": 3_696, "large": 7_792, "huge": 30_320}
"""TRS_MEMORY_MB of workers of the sizes of deploy/service.py: what app/memory.py leaves for their state."""
LOOKS = 4
"""Of a worker every `look_every_s`, for newer prices (A) and control entries (SKUs, A and B); each is a read and a
listing, found or not."""
COMMITS_OF_EPOCHS = 2
"""Per worker and interval to `epochs`, the table with most commits: of A and of B."""
COMPACTED_EVERY_S = 1_800.0
"""`maintain` of deploy/tasks.py."""
DIFF_EVERY_S = 900.0
"""`diff` of deploy/tasks.py."""

# --- assumed ---
ROWS_PER_LINE = 1.24
"""Source rows per line: about five lines an invoice, and few accounts and SKUs."""
FOLDED_BYTES = 100
"""Of a row in a folded table."""
FOLDED_PER_S = 100_000
"""Rows that a fold rewrites per second."""
KAFKA_SHARE = 1 / 3
"""What compression leaves of an event on the brokers' disks."""
KAFKA_DAYS, KAFKA_COPIES = 7, 3
SESSION_S = 45.0
"""TRS_SESSION_TIMEOUT_S: after it the group knows that a worker is gone."""
HEADROOM = 0.5
"""Share of a limit that is planned with: peaks, restarts and upkeep take the rest."""
INTERVALS_S = (10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 3_600.0)


def gets_per_commit(writers: int) -> float:
    """Reads of one commit to a table to which so many writers commit in turns."""
    others = writers - 1
    fresh = min(others, OTHERS_SINCE_CHECKPOINT)
    return GETS_PER_COMMIT + others + min(others, OTHERS_FOLLOWED) + fresh * GETS_SINCE_CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An installation. `memory_mb`: for the state of one worker (TRS_MEMORY_MB); `cdc`: no diff runs.

    No workers, or an interval of 0, stand for what `planned` finds.
    """

    lines: int
    changes_per_s: float
    workers: int = 0
    interval_s: float = 0.0
    partitions: int = 64
    cores: int = 2
    memory_mb: int = STATE_MB["medium"]
    cdc: bool = True

    @property
    def rows(self) -> float:
        return self.lines * ROWS_PER_LINE

    @property
    def state_mb(self) -> float:
        """Of one worker."""
        return self.lines * STATE_BYTES / self.workers / 1e6

    @property
    def busy(self) -> float:
        """Share of the time in which a worker's epochs run: their floor, and the changes beyond it."""
        floor = EPOCH_S + EPOCH_S_PER_LINE * self.lines / self.workers
        return floor / self.interval_s + self.changes_per_s / self.workers / (EVENTS_PER_CORE_S * self.cores)

    @property
    def looks_per_s(self) -> float:
        """Of all workers for news of each other."""
        return self.workers * LOOKS / look_every_s(self.interval_s)

    @property
    def commits_per_s(self) -> float:
        """To `epochs`; half as many to each other table."""
        return COMMITS_OF_EPOCHS * self.workers / self.interval_s

    @property
    def gets_of_epochs_per_s(self) -> float:
        """Reads of the log of `epochs`, one prefix of S3."""
        return self.commits_per_s * gets_per_commit(COMMITS_OF_EPOCHS * self.workers)

    @property
    def gets_per_s(self) -> float:
        """Reads of all workers: of `epochs`, of the tables with one commit of each worker, and looks for news."""
        commits = (FILES_PER_EPOCH - COMMITS_OF_EPOCHS) * self.workers / self.interval_s
        return commits * gets_per_commit(self.workers) + self.gets_of_epochs_per_s + self.looks_per_s

    @property
    def writes_per_s(self) -> float:
        """Writing requests of all workers, listings included."""
        commits = self.workers * FILES_PER_EPOCH / self.interval_s
        return commits * (WRITES_PER_COMMIT + LISTS_PER_COMMIT) + self.looks_per_s

    @property
    def files_per_hour(self) -> float:
        return self.workers * FILES_PER_EPOCH * 3600 / self.interval_s

    @property
    def checkpoint_mb(self) -> float:
        """Of `epochs`, just before a round of compaction."""
        return self.commits_per_s * COMPACTED_EVERY_S * CHECKPOINT_BYTES / 1e6

    @property
    def recovery_s(self) -> float:
        """A worker starts: seconds until it has its share of the state."""
        slower = SPILLED_RECOVERY if self.state_mb > self.memory_mb else 1.0
        return self.rows / self.workers / RECOVERED_PER_S * slower

    @property
    def takeover_s(self) -> float:
        """A worker dies: seconds until the others go on with its share; alone, until it is back."""
        if self.workers == 1:
            return SESSION_S + self.recovery_s
        return SESSION_S + self.recovery_s / (self.workers - 1)

    @property
    def first_load_s(self) -> float:
        """From the topics to features. The snapshot, one process, may be slower."""
        return self.rows / (LOADS_PER_S * self.workers)

    @property
    def snapshot_s(self) -> float:
        return self.rows / SNAPSHOT_PER_S

    @property
    def diff_s(self) -> float:
        return self.lines / COMPARED_PER_S

    @property
    def fold_s(self) -> float:
        """A fold of all rows, which is at least once a day, by one process."""
        return self.rows / FOLDED_PER_S

    @property
    def kafka_gb(self) -> float:
        """On the brokers' disks: rows, and documents made of them."""
        events = self.changes_per_s * DAY_S * KAFKA_DAYS * 2
        return events * EVENT_BYTES * KAFKA_SHARE * KAFKA_COPIES / 1e9

    @property
    def first_load_kafka_gb(self) -> float:
        """While the first load lies in the topics."""
        return self.rows * 2 * EVENT_BYTES * KAFKA_SHARE * KAFKA_COPIES / 1e9

    @property
    def kafka_mb_per_s(self) -> float:
        """To the brokers, before compression."""
        return self.changes_per_s * 2 * EVENT_BYTES / 1e6

    def lake_gb(self, *, years: float) -> float:
        """Current rows and logs after some years."""
        logs = (self.rows + self.changes_per_s * DAY_S * 365 * years) * LAKE_BYTES
        return (logs + self.rows * FOLDED_BYTES) / 1e9


@dataclass(frozen=True)
class Limit:
    """One thing that ends. `use` above 1: the plan does not work; above `HEADROOM`: it has no room for a peak."""

    name: str
    used: float
    allowed: float
    unit: str
    advice: str

    @property
    def use(self) -> float:
        return self.used / self.allowed


def limits(plan: Plan) -> list[Limit]:
    """Every limit, the one that comes first in front."""
    longer = "a longer TRS_EPOCH_INTERVAL_S, or fewer and larger workers"
    found = [
        Limit(
            "workers with buckets", plan.workers, plan.partitions, "workers", "more partitions, in a new installation"
        ),
        Limit("state in memory", plan.state_mb, plan.memory_mb, "MB", "a larger size or more workers; else it spills"),
        Limit("time for epochs", plan.busy, 1.0, "of the interval", "more workers or cores; a longer interval"),
        Limit("commits of one table", plan.commits_per_s, COMMITS_PER_S, "per s", longer),
        Limit("reads of one table's log", plan.gets_of_epochs_per_s, S3_GETS_PER_S, "per s", longer),
        Limit("fold of a day", plan.fold_s, DAY_S, "s", "folds side by side, which the program does not do yet"),
    ]
    if not plan.cdc:
        advice = "change data capture, or a longer interval of the diff"
        found.append(Limit("diff within its interval", plan.diff_s, DIFF_EVERY_S, "s", advice))
    return sorted(found, key=lambda limit: -limit.use)


def planned(plan: Plan) -> Plan:
    """The plan with workers and interval, where it has none: as few workers as fit, then as short an interval."""
    plan = plan if plan.workers else replace(plan, workers=fitting_workers(plan))
    return plan if plan.interval_s else replace(plan, interval_s=fitting_interval_s(plan))


def fitting_workers(plan: Plan) -> int:
    """As many as hold the state in memory and have twice the cores that the changes need; one at least."""
    by_state = plan.lines * STATE_BYTES / 1e6 / plan.memory_mb
    by_changes = plan.changes_per_s / (EVENTS_PER_CORE_S * plan.cores * HEADROOM)
    return max(1, math.ceil(by_state), math.ceil(by_changes))


def fitting_interval_s(plan: Plan) -> float:
    """The shortest usual interval with which commits, reads and epochs leave room; the longest where none does."""
    for interval_s in INTERVALS_S:
        tried = replace(plan, interval_s=interval_s)
        shares = (tried.busy, tried.commits_per_s / COMMITS_PER_S, tried.gets_of_epochs_per_s / S3_GETS_PER_S)
        if max(shares) <= HEADROOM:
            return interval_s
    return INTERVALS_S[-1]


@dataclass(frozen=True)
class Quantity:
    """One line of the answer."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return " ".join(part for part in self.told() if part)

    def told(self) -> tuple[str, str]:
        """Figure and unit; long times in minutes or hours."""
        value, unit = self.value, self.unit
        if unit == "s" and value >= 120:
            value, unit = (value / 60, "min") if value < 7_200 else (value / 3_600, "h")
        digits = 0 if value >= 100 or value == round(value) else 1 if value >= 1 else 2
        return f"{value:,.{digits}f}", unit


def quantities(plan: Plan) -> list[Quantity]:
    """What the plan needs, in the order of the rows' way."""
    return [
        Quantity("workers", plan.workers, ""),
        Quantity("interval of epochs", plan.interval_s, "s"),
        Quantity("snapshot of the database", plan.snapshot_s, "s"),
        Quantity("Kafka's disks while it lies there", plan.first_load_kafka_gb, "GB"),
        Quantity("from the topics to features", plan.first_load_s, "s"),
        Quantity("to the brokers", plan.kafka_mb_per_s, "MB/s"),
        Quantity("Kafka's disks", plan.kafka_gb, "GB"),
        Quantity("time that epochs take", plan.busy * 100, "%"),
        Quantity("state of a worker", plan.state_mb / 1000, "GB"),
        Quantity("start of a worker", plan.recovery_s, "s"),
        Quantity("a worker dies: its share goes on after", plan.takeover_s, "s"),
        Quantity("commits to `epochs`", plan.commits_per_s, "per s"),
        Quantity("files", plan.files_per_hour, "per hour"),
        Quantity("checkpoint of `epochs`", plan.checkpoint_mb, "MB"),
        Quantity("reading requests to S3", plan.gets_per_s, "per s"),
        Quantity("writing requests and listings", plan.writes_per_s, "per s"),
        Quantity("lake after a year", plan.lake_gb(years=1), "GB"),
        Quantity("fold of all rows", plan.fold_s, "s"),
        Quantity("a diff or a check", plan.diff_s, "s"),
    ]


SIZES = {
    "1 million": planned(Plan(lines=1_000_000, changes_per_s=1)),
    "10 million": planned(Plan(lines=10_000_000, changes_per_s=10)),
    "100 million": planned(Plan(lines=100_000_000, changes_per_s=100)),
    "1 billion": planned(Plan(lines=10**9, changes_per_s=1_000, cores=8, memory_mb=STATE_MB["huge"])),
    "1 billion, smaller workers": planned(Plan(lines=10**9, changes_per_s=1_000, cores=4, memory_mb=STATE_MB["large"])),
    "1 billion, 100 workers": planned(Plan(lines=10**9, changes_per_s=1_000, workers=100, partitions=128)),
}
"""Of docs/capacity.md; memory and cores as of Fargate's sizes in deploy/service.py."""
GROWTH = (1, 2, 4, 8, 16, 32, 64, 100)
"""Numbers of workers whose commits docs/capacity.md compares."""


def tables() -> str:
    """The tables of docs/capacity.md: what sizes need, and what commits cost by the number of workers."""
    plans = list(SIZES.values())
    rows = [["lines", *SIZES], ["---", *("---:" for _ in plans)]]
    rows.append(["changes, per s", *(f"{p.changes_per_s:,g}" for p in plans)])
    rows.append(["memory for state, cores", *(f"{p.memory_mb / 1000:,.1f} GB, {p.cores}" for p in plans)])
    for line in zip(*map(quantities, plans), strict=True):
        first = line[0]
        timed = first.unit in ("", "s")
        name = first.name if timed else f"{first.name}, {first.unit}"
        rows.append([name, *(str(q) if timed else q.told()[0] for q in line)])
    firsts = [limits(p)[0] for p in plans]
    rows.append(["the first limit", *(f"{limit.name}<br>{limit.use:.0%}" for limit in firsts)])
    per_s = ("commits to `epochs`", "reads of its log", "reads of all", "writes")
    grown = [["workers", "interval", *(f"{n}, per s" for n in per_s), "the first limit"], ["---:"] * 6 + ["---"]]
    for workers in GROWTH:
        huge = Plan(lines=10**8, changes_per_s=100, partitions=128, cores=8, memory_mb=STATE_MB["huge"])
        plan = replace(huge, workers=workers)
        for each in {s: replace(plan, interval_s=s) for s in (10.0, planned(plan).interval_s)}.values():
            limit = limits(each)[0]
            numbers = (each.commits_per_s, each.gets_of_epochs_per_s, each.gets_per_s, each.writes_per_s)
            told = [Quantity("", n, "").told()[0] for n in numbers]
            grown.append([str(workers), f"{each.interval_s:g} s", *told, f"{limit.name}: {limit.use:.0%}"])
    return f"{_markdown(rows)}\n\n{_markdown(grown)}\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(tables())
