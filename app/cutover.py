"""`trs cutover`: from no change data capture to change data capture, step by step, while source and worker go on.

The order is what makes it safe. The connector streams, and has noted a position, before the first row is read: every
change is then either in a row that is read or behind that position, and where it is in both, order decides (R1). What
is on disk saves work; what is done is asked of Kafka Connect and of the lake, so a step that was interrupted anywhere
is done again or found done.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.bootstrap import diff, diff_config, lake_of, newest_order, open_control_log, reconcile, snapshot
from app.connector import (
    Planned,
    await_running,
    check_same_capture,
    connect_client,
    connector_name,
    plan_connector,
    refusal,
    register,
    resume,
    validate,
)
from app.cutover_state import CutoverState, StateFile, StepRecord, now
from app.settings import Settings
from app.wiring import kafka_config, opened_source
from batch_bootstrap.diff import Watcher, wait_until_read
from batch_bootstrap.runs import DIFF
from batch_bootstrap.source import DEFAULT_CHUNK_ROWS
from connectors.connect_rest import ConnectClient
from connectors.debezium import differs, redact
from connectors.kafka import check_topics
from connectors.mysql import connect, current_position, wrapped_errors
from connectors.mysql_readiness import check_replication_right, retention_notices
from connectors.source_rows import BinlogPosition
from processors.errors import ConnectError, SourceError, UnavailableError
from processors.order import file_number
from processors.tables import all_topics

Method = Literal["snapshot", "diff"]
STEPS = {
    "preflight": "server settings, rights, binlog retention, topics and the connector's configuration are checked",
    "connector": "the connector is registered, runs, and has noted a position in the binlog",
    "rows": "the rows are read behind that position and sent",
    "lag": "connector and lake have passed the place where the binlog ended after that",
    "reconcile": "source and lake are compared, row for row",
}
SOURCE = "mysql"
_POLL_S = 0.5


@dataclass(frozen=True)
class Options:
    """`method`: None goes on as begun, at first with a diff where the lake holds rows. `wait_s`: for what does not move
    at all. `settle_s`: for the connector to note that it has passed a place, which it does now and then."""

    method: Method | None = None
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    wait_s: float = 300.0
    settle_s: float = 120.0
    again: bool = False


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """Raised inside between two steps or in one that was told to stop."""


def state_file(settings: Settings) -> StateFile:
    """Where the cut-over of these settings keeps its state."""
    return StateFile(settings.home / "cutover", connector_name(settings))


def run_cutover(settings: Settings, options: Options, watcher: Watcher) -> CutoverState:
    """Does what is not done yet. `finished_at` of the outcome is None when it was stopped.

    Raises what the steps raise; the same call goes on afterwards. DifferencesError: source and lake differ.
    """
    file = state_file(settings)
    with file.alone():
        cutover = _Cutover(settings, options, watcher, file)
        try:
            cutover.run()
        except Stopped:
            file.save(cutover.state)
        return cutover.state


class _Cutover:
    def __init__(self, settings: Settings, options: Options, watcher: Watcher, file: StateFile) -> None:
        self._settings = settings
        self._options = options
        self._watcher = watcher
        self._file = file
        self._client: ConnectClient = connect_client(settings)
        self._source = opened_source(settings, SOURCE, chunk_rows=options.chunk_rows)
        saved = None if options.again else file.load(watcher.announce)
        if saved is not None and saved.source != self._source.description:
            watcher.announce(f"the last cut-over was of {saved.source}: this one begins anew")
            saved = None
        self.state = saved or CutoverState(connector_name(settings), self._source.description, options.method, now())
        if options.method is not None and self.state.finished_at is None:
            self.state.choose(options.method)

    def run(self) -> None:
        """All steps. Raises Stopped."""
        with closing(self._source):
            self.state.attempts += 1
            self._file.save(self.state)
            planned = self._step("preflight", self._preflight)
            self._step("connector", lambda facts: self._start_connector(planned, facts))
            self._check_lake()
            if self.state.finished_at is not None:
                self._watcher.announce(f"was finished at {self.state.finished_at}; --again compares and sends anew")
                return
            if "rows" not in self.state.steps:
                self._step("rows", self._send_rows)
            self._step("lag", lambda facts: self._wait_for_lag(planned, facts))
            self._step("reconcile", self._reconcile)
            self.state.finished_at = now()
            self._file.save(self.state)

    def _step(self, name: str, action: Callable[[dict[str, Any]], Any]) -> Any:
        if self._watcher.stopped():
            raise Stopped
        self._watcher.announce(f"{name}: {STEPS[name]}")
        started = time.monotonic()
        facts: dict[str, Any] = {}
        result = action(facts)
        self.state.steps[name] = StepRecord(now(), round(time.monotonic() - started, 3), facts)
        self._file.save(self.state)
        return result

    # --- steps ---------------------------------------------------------------------------------------------------

    def _preflight(self, facts: dict[str, Any]) -> Planned:
        settings = self._settings
        planned = plan_connector(settings, snapshot="no_data")
        url = planned.plan.database
        with wrapped_errors(url), connect(url) as connection:
            current_position(connection)  # which needs a right of its own
            planned.notices.extend(check_replication_right(connection, url) + retention_notices(connection, url))
        check_topics(kafka_config(settings), all_topics(settings.topic_prefix), settings.partitions)
        problems, notices = validate(self._client, planned)
        if problems:
            raise refusal(problems)
        facts |= {"server": planned.server, "notices": [*planned.notices, *notices]}
        for notice in facts["notices"]:
            self._watcher.announce(notice)
        return planned

    def _start_connector(self, planned: Planned, facts: dict[str, Any]) -> None:
        client, name = self._client, planned.name
        known = client.config(name)
        if known is not None:
            check_same_capture(planned, known)
        elif self.state.rows_after_run is not None:
            # it may begin at a later place than the one before which the rows were read
            self._watcher.announce(f"{name} is gone from Kafka Connect: the rows are sent again once it runs")
            self.state.forget_rows()
            self._file.save(self.state)
        outdated = known is not None and differs(planned.config, known)
        if known is None or outdated:
            register(self._settings, client, planned, wait_s=0, report=self._watcher.announce)
        state = client.state(name)
        if known is None or (state is not None and state.runs):
            await_running(client, name, wait_s=self._options.wait_s)
        else:
            resume(client, name, wait_s=self._options.wait_s)
        position = self._await_position(name)
        facts |= {
            "position": {"file": position.file, "pos": position.pos},
            "registered_before": known is not None,
            "reconfigured": outdated,
        }

    def _await_position(self, name: str) -> BinlogPosition:
        """The first place that the connector has noted for itself, from which it goes on after any failure.

        That it runs is not enough: where it begins, it asks the server after that.
        """
        deadline = time.monotonic() + self._options.wait_s
        while True:
            noted = self._noted(name)
            if noted is not None:
                return noted
            self._check_connector(name)
            self._pause()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"connector {name} has noted no position in {self._options.wait_s:.0f} s",
                    hint="see trs connector status; Kafka Connect notes it every offset.flush.interval.ms",
                )

    def _check_connector(self, name: str) -> None:
        state = self._client.state(name)
        if state is not None and state.failure is not None:
            shown = redact(state.failure, self._client.config(name) or {})
            raise ConnectError(f"connector {name} failed: {shown}", hint="correct the cause, then call again")

    def _check_runs(self, name: str) -> None:
        """What was not read by a connector that rests will not be: the comparison may find the same today, and no row
        tomorrow."""
        state = self._client.state(name)
        if state is None or not state.runs:
            found = "gone" if state is None else ", ".join(sorted(state.states)).lower()
            raise ConnectError(
                f"connector {name} does not run: it is {found}", hint="give `trs cutover` again, which lets it go on"
            )

    def _check_lake(self) -> None:
        """Another lake than the one that the rows were sent for needs them again."""
        generation = open_control_log(self._settings).generation()
        if self.state.generation not in (None, generation):
            self._watcher.announce("the lake is another one than before: the rows are sent again")
            self.state.forget_rows()
        self.state.generation = generation
        self._file.save(self.state)

    def _send_rows(self, facts: dict[str, Any]) -> None:
        control = open_control_log(self._settings)
        if self.state.rows_after_run is None:
            self.state.rows_after_run = max((e.run for e in control.entries() if e.run is not None), default=0)
            self.state.method = self._options.method or self.state.method or self._fitting_method()
            open_run = next((r for r in control.open_runs() if r.detail.get("kind") != DIFF), None)
            if open_run is not None:
                raise SourceError(
                    f"run {open_run.run} of {open_run.detail.get('source')} is open, and began before the connector",
                    hint="finish it with `trs bootstrap snapshot`, then call again",
                )
            self._file.save(self.state)
        found = self._finished_run()
        if found is not None:
            facts |= {"run": found, "with": self.state.method, "found_finished": True}
            return
        options, settings = self._options, self._settings
        if self.state.method == "diff":
            compared = diff(
                settings, SOURCE, chunk_rows=options.chunk_rows, wait_s=options.wait_s, watcher=self._watcher
            )
            run, finished, sent = compared.run, compared.finished, compared.emitted
        else:
            done = snapshot(
                settings,
                SOURCE,
                chunk_rows=options.chunk_rows,
                stopped=self._watcher.stopped,
                report=self._watcher.report,
                announce=self._watcher.announce,
            )
            run, finished, sent = done.run, done.finished, done.sent
        if not finished:
            raise Stopped
        facts |= {"run": run, "with": self.state.method, "sent": sent}

    def _fitting_method(self) -> Method:
        """A snapshot cannot say what is gone: what was deleted before the connector came would stay in the lake."""
        fed = bool(self.state.rows_after_run) or newest_order(self._settings) >= 0
        return "diff" if fed else "snapshot"

    def _finished_run(self) -> int | None:
        """A run of that method and all tables, begun after this step, that ended well though nobody noted it here."""
        assert self.state.rows_after_run is not None
        tables = {table.name for table in self._source.tables()}
        entries = open_control_log(self._settings).entries()
        ours = {
            e.run
            for e in entries
            if e.kind == "run_opened"
            and e.run is not None
            and e.run > self.state.rows_after_run
            and e.detail.get("source") == self._source.description
            and (e.detail.get("kind") == DIFF) == (self.state.method == "diff")
        }
        ended = [
            e.run
            for e in entries
            if e.kind == "run_closed"
            and e.run in ours
            and not e.detail.get("abandoned")
            and tables <= set(e.detail.get("rows", ()))
        ]
        return ended[-1] if ended else None

    def _wait_for_lag(self, planned: Planned, facts: dict[str, Any]) -> None:
        settings, options = self._settings, self._options
        self._source.preflight()
        url = planned.plan.database
        with wrapped_errors(url), connect(url) as connection:
            target = current_position(connection)
        if target is None:
            raise SourceError(f"{self._source.description}: the binlog is off", hint="switch it on, then call again")
        wanted = _place(target)
        deadline = time.monotonic() + options.settle_s
        passed = False
        while not passed and time.monotonic() < deadline:
            noted = self._noted(self.state.connector)
            passed = noted is not None and _place(noted) >= wanted
            if not passed:
                self._check_connector(self.state.connector)
                self._pause()
        if not passed:
            self._check_runs(self.state.connector)
            self._watcher.announce(
                f"the connector has not noted {target.file}:{target.pos} in {options.settle_s:.0f} s, as happens where"
                " nothing changes; the comparison will show whether anything is missing"
            )
        config = diff_config(settings, options.chunk_rows, wait_s=options.wait_s, accept_empty=True)
        if not wait_until_read(self._source, config, lake_of(settings), kafka_config(settings), self._watcher):
            raise Stopped
        facts |= {"position": {"file": target.file, "pos": target.pos}, "passed": passed}

    def _reconcile(self, facts: dict[str, Any]) -> None:
        check = reconcile(
            self._settings,
            SOURCE,
            chunk_rows=self._options.chunk_rows,
            wait_s=self._options.wait_s,
            settle_s=min(self._options.settle_s, 30.0),
            watcher=replace(self._watcher, announce=lambda _line: None),
        )
        if not check.finished:
            raise Stopped
        check.raise_unless_equal()
        facts |= {
            "check_id": check.check_id,
            "compared": {name: table.compared for name, table in check.tables.items()},
            "in_flight": sum(table.in_flight for table in check.tables.values()),
        }

    # --- help ----------------------------------------------------------------------------------------------------

    def _noted(self, name: str) -> BinlogPosition | None:
        """The connector's own note, once it streams."""
        noted = self._client.position(name)
        if noted is None or noted.get("snapshot") or "file" not in noted:
            return None
        return BinlogPosition(str(noted["file"]), int(noted["pos"]))

    def _pause(self) -> None:
        if self._watcher.stopped():
            raise Stopped
        time.sleep(_POLL_S)


def _place(position: BinlogPosition) -> tuple[int, int]:
    return file_number(position.file), position.pos
