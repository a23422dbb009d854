"""`/metrics`: what the worker knows of itself, for Prometheus. Every metric is described in docs/observe.md.

What is counted anyway is read when it is asked for; only the lengths of epochs are noted as they end. The registry is
the worker's own: nothing that a library registers by itself is shown.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from app.probes import Condition
from app.worker_state import WorkerState
from processors.activity import STEPS, EpochTrace
from processors.reasons import Reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All metrics of one worker. `note` is called by the threads of stages, `text` by the web server's."""

    def __init__(self, state: WorkerState, *, version: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self._epochs = Histogram(
            "trs_epoch_duration_seconds",
            "How long epochs took, decoding left out.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._steps = Histogram(
            "trs_epoch_step_seconds",
            "How long each kind of step took in an epoch.",
            ["stage", "step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Collector(state, version))

    def note(self, trace: EpochTrace) -> None:
        """An epoch ended. Failed ones do not count: the worker ends with them."""
        if trace.failure is not None:
            return
        self._epochs.labels(trace.stage).observe(trace.seconds)
        for name in STEPS:
            seconds = [step.seconds for step in trace.steps if step.name == name]
            if seconds:
                self._steps.labels(trace.stage, name).observe(sum(seconds))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _Collector:
    """Asks the worker's state whenever metrics are asked for."""

    def __init__(self, state: WorkerState, version: str) -> None:
        self._state = state
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Nothing needs to be known at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now."""
        started = self._state.started.isoformat(timespec="milliseconds")
        yield InfoMetricFamily("trs_worker", "This process.", value={"version": self._version, "started": started})
        yield from self._probes()
        yield from self._stages()
        yield from self._partitions()
        yield from self._state_memory()
        yield from self._lake()

    def _probes(self) -> Iterable[Metric]:
        state = self._state
        troubles = state.troubles()
        yield _gauge("trs_live", "1 while /health answers 200.", float(not any(t.live for t in troubles)))
        yield _gauge("trs_ready", "1 while /ready answers 200.", float(not troubles))
        family = GaugeMetricFamily("trs_trouble", "1 while the condition holds.", labels=["condition"])
        holding = {t.condition for t in troubles}
        for condition in Condition:
            family.add_metric([condition], float(condition in holding))
        yield family
        yield _gauge("trs_alarms", "Alarms that need a person, see /status.json.", len(state.alarms()))
        yield _gauge("trs_buckets", "Buckets that the worker owns.", len(state.buckets or ()))
        loading = state.loading()
        yield _gauge(
            "trs_loading_share", "How much of the state is loaded, 0 to 1.", 1.0 if loading is None else loading.share
        )
        if state.broker is not None:
            yield _gauge("trs_broker_silent_seconds", "Since Kafka answered last.", state.broker.silent_s)

    def _stages(self) -> Iterable[Metric]:
        looks = [activity.look(0) for activity in self._state.activities.values()]
        events = CounterMetricFamily(
            "trs_events", "Records that were read, by what became of them.", labels=["stage", "outcome"]
        )
        ignored = CounterMetricFamily("trs_ignored_events", "Records ignored, by why.", labels=["stage", "reason"])
        dead = CounterMetricFamily("trs_dead_letters", "Records refused, by why.", labels=["stage", "reason"])
        rows = CounterMetricFamily("trs_log_rows", "Rows written to the stage's log.", labels=["stage"])
        derived = CounterMetricFamily("trs_derived_rows", "Feature rows, documents and lines made.", labels=["stage"])
        epochs = CounterMetricFamily("trs_epochs", "Epochs that ended, empty ones too.", labels=["stage"])
        running = GaugeMetricFamily(
            "trs_epoch_running_seconds", "For how long the present epoch runs, 0 without.", labels=["stage"]
        )
        rests = GaugeMetricFamily("trs_epoch_age_seconds", "Since the last epoch ended.", labels=["stage"])
        fresh = GaugeMetricFamily(
            "trs_freshness_seconds", "Age of the moment through which the stage is complete.", labels=["stage"]
        )
        for look in looks:
            stage, totals = look.stage, look.totals
            events.add_metric([stage, "applied"], totals.applied)
            events.add_metric([stage, "ignored"], sum(totals.ignored.values()))
            events.add_metric([stage, "dead"], sum(totals.dead.values()))
            for reason, count in totals.ignored.items():
                ignored.add_metric([stage, reason], count)
            for reason, count in totals.dead.items():
                dead.add_metric([stage, _known(reason)], count)
            rows.add_metric([stage], totals.log_rows)
            derived.add_metric([stage], totals.derived)
            epochs.add_metric([stage], totals.epochs)
            running.add_metric([stage], 0.0 if look.running is None else look.running.seconds)
            if look.rests_s is not None:
                rests.add_metric([stage], look.rests_s)
            if look.known_through is not None:
                fresh.add_metric([stage], max(0.0, (datetime.now(UTC) - look.known_through).total_seconds()))
        yield from (events, ignored, dead, rows, derived, epochs, running, rests, fresh)
        waiting = GaugeMetricFamily("trs_waiting_records", "Records fetched and not taken yet.", labels=["stage"])
        for name, records in self._state.waiting().items():
            waiting.add_metric([name], records)
        yield waiting

    def _partitions(self) -> Iterable[Metric]:
        lag = GaugeMetricFamily("trs_lag_records", "Records not committed yet.", labels=["topic", "partition"])
        for (topic, partition), records in sorted(self._state.lag().items()):
            lag.add_metric([topic, str(partition)], records)
        yield lag
        refused = CounterMetricFamily(
            "trs_commit_conflicts", "Commits refused and tried again, or refused for good.", labels=["table", "outcome"]
        )
        for (table, outcome), count in sorted(self._state.conflicts().items()):
            refused.add_metric([table, outcome], count)
        yield refused

    def _state_memory(self) -> Iterable[Metric]:
        memory = self._state.memory()
        if memory is None:
            return
        yield _gauge("trs_state_bytes", "Memory that the state takes.", memory.used_bytes)
        yield _gauge("trs_state_budget_bytes", "Memory that it may take, TRS_MEMORY_MB.", memory.budget_bytes)
        yield _gauge("trs_state_spilled_bytes", "What it keeps on disk beyond that.", memory.spilled_bytes)

    def _lake(self) -> Iterable[Metric]:
        watch = self._state.lake
        look = None if watch is None else watch.last
        if look is None:
            return
        seen = "The lake was looked at then, in seconds since 1970."
        yield _gauge("trs_lake_look_timestamp_seconds", seen, look.at.timestamp())
        debt = GaugeMetricFamily(
            "trs_fold_debt_rows", "Rows of its log that a folded table has not taken in.", labels=["table"]
        )
        rows = GaugeMetricFamily("trs_table_rows", "Rows of the table, former versions left out.", labels=["table"])
        files = GaugeMetricFamily("trs_table_files", "Data files of the table.", labels=["table"])
        size = GaugeMetricFamily("trs_table_bytes", "Size of the table's data files.", labels=["table"])
        version = GaugeMetricFamily("trs_table_version", "Delta's version of the table.", labels=["table"])
        for table in look.tables:
            for family, value in ((rows, table.rows), (files, table.files), (size, table.size_bytes)):
                family.add_metric([table.name], value)
            version.add_metric([table.name], table.version)
            if table.fold_debt is not None:
                debt.add_metric([table.name], table.fold_debt)
        yield from (debt, rows, files, size, version)
        checked = GaugeMetricFamily(
            "trs_reconciliation_timestamp_seconds",
            "When it was last compared with its source.",
            labels=["table"],
        )
        differing = GaugeMetricFamily(
            "trs_reconciliation_differing_rows", "Rows that differed then and were not corrected.", labels=["table"]
        )
        for compared in look.reconciled:
            checked.add_metric([compared.table], compared.checked_at.timestamp())
            differing.add_metric([compared.table], look.differing[compared.table])
        yield from (checked, differing)
        yield _gauge("trs_quality_checks", "Declared checks that were made.", len(look.checks))
        yield _gauge("trs_quality_checks_failed", "Those that failed when made last.", len(look.failed_checks))
        yield _gauge("trs_upkeep_failed", "Tables and actions of upkeep that failed last.", len(look.failed_upkeep))


def _known(reason: str) -> str:
    """A producer of somebody else may name any reason; labels stay few."""
    return reason if reason in _REASONS else "other"


_REASONS = {str(reason) for reason in Reason}


def _gauge(name: str, doc: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, doc)
    family.add_metric([], value)
    return family
