"""`trs reconcile`: does the lake hold what the source holds? The comparison of a diff as a check.

Rows on their way are no differences. A key that differs is looked at again, in the source and in the lake, once the
lake has passed the place of its first read (or, where nothing streams, after a while) and has read the topics up to
their ends: it differs if it does so in the same way both times. What went on changing meanwhile gets further looks.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import pyarrow as pa

from batch_bootstrap.compare import Comparison, DigestSource, Found, Workspace, by_op
from batch_bootstrap.diff import DiffConfig, Lake, Watcher, messages_of, send, wait_until_read
from batch_bootstrap.events import Op, connect
from batch_bootstrap.order_checks import check_order
from batch_bootstrap.runs import RunRegistry, begin_diff, check_folder, work_folder
from batch_bootstrap.source import Source
from connectors.kafka import KafkaConfig, TransactionalProducer
from connectors.row_digests import Parts
from connectors.source_rows import BinlogPosition, declared_schema
from processors.errors import DifferencesError, TrsError
from processors.lake_tables import RECONCILIATION
from processors.order import BATCH_SOURCE_NAME
from processors.tables import Table

LOOKS = 3
MOST_LOOKED_AT = 200_000
"""Keys per table that are looked at again; of more nobody needs to know which are on their way."""
_POLL_S = 1.0
_LONGEST_PAUSE_S = 8.0
"""Between two looks at the lake's newest order, each of which reads a column of the logs."""
_NO_RUN = 10**10 - 1
"""Orders rows without a position above all others where no run is registered, because nothing is sent."""


@dataclass
class TableCheck:
    """What was found of one table; counts as in the lake's table `reconciliation`."""

    compared: int = 0
    chunks: int = 0
    chunks_differing: int = 0
    missing: int = 0
    changed: int = 0
    surplus: int = 0
    in_flight: int = 0
    rejects: int = 0
    repaired: int = 0
    position: BinlogPosition | None = None
    seconds: float = 0.0

    @property
    def differing(self) -> int:
        """Rows that differ and are not on their way."""
        return self.missing + self.changed + self.surplus

    def add_step(self, found: Found) -> None:
        """Counts a step of comparing, without what differs."""
        self.compared += found.compared
        self.chunks += found.steps
        self.chunks_differing += found.steps_read
        self.rejects += len(found.rejects)
        self.position = found.position or self.position

    def add_differences(self, changes: Mapping[Op, pa.Table]) -> None:
        """Counts rows that differ for certain."""
        self.missing += changes["c"].num_rows if "c" in changes else 0
        self.changed += changes["u"].num_rows if "u" in changes else 0
        self.surplus += changes["d"].num_rows if "d" in changes else 0


@dataclass
class Reconciliation:
    """One check. `finished`: False when it was stopped. `examples`: a few keys that differ, per table, as text."""

    check_id: str
    at: datetime
    source: str
    tables: dict[str, TableCheck] = field(default_factory=dict)
    finished: bool = False
    seconds: float = 0.0
    notices: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def differing(self) -> int:
        """Rows that differ, over all tables."""
        return sum(t.differing for t in self.tables.values())

    @property
    def repaired(self) -> int:
        """Corrections that were sent."""
        return sum(t.repaired for t in self.tables.values())

    def rows(self) -> pa.Table:
        """The check as rows of the lake's table."""
        rows = [
            {
                "check_id": self.check_id,
                "checked_at": self.at,
                "source": self.source,
                "table_name": name,
                **{n: getattr(t, n) for n in _COUNTS},
                "position_file": None if t.position is None else t.position.file,
                "position_pos": None if t.position is None else t.position.pos,
                "seconds": t.seconds,
                "known_date": self.at.date(),
            }
            for name, t in self.tables.items()
        ]
        return pa.Table.from_pylist(rows, schema=RECONCILIATION.schema)

    def raise_unless_equal(self) -> None:
        """Raises DifferencesError where rows differ that were not corrected."""
        if self.differing > self.repaired:
            told = ", ".join(f"{t.differing:,} of {name}" for name, t in self.tables.items() if t.differing)
            raise DifferencesError(
                f"source and lake differ in {self.differing:,} rows: {told}",
                hint="`trs reconcile --repair`, or `trs bootstrap diff`, sends the corrections",
            )


_COUNTS = (
    "compared",
    "chunks",
    "chunks_differing",
    "missing",
    "changed",
    "surplus",
    "in_flight",
    "rejects",
    "repaired",
)
_EXAMPLES = 5


def run_reconcile(
    source: Source,
    config: DiffConfig,
    lake: Lake,
    *,
    kafka: KafkaConfig,
    record: Callable[[pa.Table], None],
    repair: bool = False,
    settle_s: float = 30.0,
    watcher: Watcher | None = None,
) -> Reconciliation:
    """Compares, looks again at what differs, records the outcome in the lake; with `repair` sends corrections first.

    Raises what `run_diff` raises. A check that was stopped is not recorded.
    """
    watcher = watcher or Watcher()
    started = time.monotonic()
    source.preflight()
    check_folder(config.state)
    registry = lake.open_registry()
    check_order(source, lake.newest_order)
    check = Reconciliation(uuid4().hex, datetime.now(UTC), source.description, notices=list(source.notices))
    name = config.source_names[-1] if source.has_binlog else BATCH_SOURCE_NAME
    run = begin_diff(registry, name, source.description) if repair else _NO_RUN
    try:
        producer = _producer(kafka, registry) if repair else None
        try:
            if wait_until_read(source, config, lake, kafka, watcher):
                _Check(source, config, lake, kafka, producer, settle_s, watcher, check).run(run)
        finally:
            if producer is not None:
                producer.close()
    except BaseException:
        if repair:
            with suppress(TrsError):  # the next run ends it; what went wrong first is told
                registry.close_run(run, {"abandoned": True})
        raise
    if repair:
        registry.close_run(run, {"emitted": check.repaired} if check.finished else {"abandoned": True})
    check.seconds = time.monotonic() - started
    if check.finished:
        record(check.rows())
    return check


def _producer(kafka: KafkaConfig, registry: RunRegistry) -> TransactionalProducer:
    return TransactionalProducer(kafka, f"trs-bootstrap-{registry.generation()}")


@dataclass
class _Check:
    """The work of one check."""

    source: Source
    config: DiffConfig
    lake: Lake
    kafka: KafkaConfig
    producer: TransactionalProducer | None
    settle_s: float
    watcher: Watcher
    check: Reconciliation

    def run(self, run: int) -> None:
        """Sets `finished` unless it was stopped."""
        config = self.config
        with (
            work_folder(config.state) as folder,
            Workspace(folder, self.lake.rows(), memory_mb=config.memory_mb, threads=config.threads) as workspace,
        ):
            self.comparison = Comparison(
                self.source,
                workspace,
                source_epoch=len(config.source_names),
                run=run,
                chunk_rows=config.chunk_rows,
                accept_empty=config.accept_empty or self.producer is None,  # to look is harmless
                announce=self.check.notices.append,
            )
            self.numbers: Iterator[int] = count(1)
            suspects = {}
            for table in self.source.tables():
                found = self._first_look(table)
                if found is None:
                    return
                suspects[table] = found
            self.check.finished = self._look_again(suspects)

    def _first_look(self, table: Table) -> pa.Table | None:
        """Rows (op, columns) that differ at first; None when it was stopped."""
        told = self.check.tables.setdefault(table.name, TableCheck())
        estimate, started = self.source.row_estimate(table), time.monotonic()
        suspects: list[pa.Table] = []
        for found in self.comparison.of_table(table):
            if self.watcher.stopped():
                return None
            told.add_step(found)
            kept = sum(rows.num_rows for rows in suspects)
            if not isinstance(self.source, DigestSource):
                self._differ(found)  # a source at rest: nothing is on its way from it
            elif found.changed and kept + found.changed > MOST_LOOKED_AT:
                told.add_differences(found.changes)
                self._note_unlooked(table)
            elif found.changed:
                suspects.append(_as_rows(table, found.changes))
            told.seconds = time.monotonic() - started
            self.watcher.report(table.name, told.compared, estimate)
        return pa.concat_tables(suspects) if suspects else _as_rows(table, {})

    def _note_unlooked(self, table: Table) -> None:
        note = (
            f"{table.name}: more than {MOST_LOOKED_AT:,} rows differ; the rest is counted without a second look,"
            " and not repaired: `trs bootstrap diff` sends it"
        )
        if note not in self.check.notices:
            self.check.notices.append(note)

    def _look_again(self, suspects: dict[Table, pa.Table]) -> bool:
        """Judges what differed; False when it was stopped."""
        for _ in range(LOOKS):
            if not any(rows.num_rows for rows in suspects.values()):
                return True
            if not self._settle():
                return False
            for table, first in suspects.items():
                if first.num_rows:
                    suspects[table] = self._second_look(table, first)
        for table, rows in suspects.items():
            self.check.tables[table.name].in_flight += rows.num_rows
        return True

    def _settle(self) -> bool:
        """Waits for the place of the last read, then for the ends of the topics; False when it was stopped."""
        places = [t.position for t in self.check.tables.values() if t.position is not None]
        passed = max((self.comparison.order(p) for p in places), default=0)
        deadline, pause_s = time.monotonic() + self.settle_s, _POLL_S
        while time.monotonic() < deadline and self.comparison.workspace.newest_order() < passed:
            again, pause_s = min(time.monotonic() + pause_s, deadline), min(2 * pause_s, _LONGEST_PAUSE_S)
            while (left := again - time.monotonic()) > 0:
                if self.watcher.stopped():
                    return False
                time.sleep(min(_POLL_S, left))
        return wait_until_read(self.source, self.config, self.lake, self.kafka, self.watcher)

    def _second_look(self, table: Table, first: pa.Table) -> pa.Table:
        """Counts what differs as it did at first, and returns what differs in another way."""
        assert isinstance(self.source, DigestSource)
        comparison, told, started = self.comparison, self.check.tables[table.name], time.monotonic()
        keys = first.select(list(table.key))
        parts = Parts.of(table, width=1, count=1)
        with (
            self.source.reader(table, parts, most_rows=1) as reader,
            comparison.workspace.lake_rows(table, keys) as held,
        ):
            read = reader.rows_of(keys)
            order = comparison.order(read.position)
            second, _ = held.differences(read.rows, read.rejected_keys, held.name, order)
        same, other = comparison.workspace.both(first, second)
        told.position = read.position or told.position
        self._differ(Found(table, read.position, read.read_ms, by_op(table, same)))
        told.seconds += time.monotonic() - started
        return other

    def _differ(self, found: Found) -> None:
        """Counts and, if that is wanted, corrects rows that differ for certain."""
        told = self.check.tables[found.table.name]
        told.add_differences(found.changes)
        shown = self.check.examples.setdefault(found.table.name, []) if found.changed else []
        for op, rows in found.changes.items():
            for row in rows.select(list(found.table.key)).slice(0, _EXAMPLES - len(shown)).to_pylist():
                shown.append(f"{_TOLD[op]} {', '.join(str(v) for v in row.values())}")
        if self.producer is not None and found.changed:
            with connect() as con:
                send(self.producer, self.config, messages_of(con, self.comparison, self.config, found, self.numbers))
            told.repaired += found.changed


_TOLD: dict[Op, str] = {"c": "missing", "u": "changed", "d": "surplus"}


def _as_rows(table: Table, changes: Mapping[Op, pa.Table]) -> pa.Table:
    """Changes by op as rows (op, columns), of deletions with the key only."""
    schema = pa.schema([("op", pa.string()), *declared_schema(table)])
    parts: Sequence[pa.Table] = [
        rows.append_column("op", pa.array([op] * rows.num_rows, pa.string())) for op, rows in changes.items()
    ]
    return pa.concat_tables([schema.empty_table(), *parts], promote_options="default").select(schema.names).cast(schema)
