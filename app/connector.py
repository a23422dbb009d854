"""Debezium's connector of these settings: planned from them and the server's answers, then told to Kafka Connect."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from app.settings import Settings, parse_options
from app.wiring import database_url, kafka_config
from connectors.connect_rest import ConnectClient, ConnectorState, Problem
from connectors.debezium import ConnectorPlan, Flavour, Snapshot, captured, flavour_of, redact, render
from connectors.kafka import ensure_topics
from connectors.mysql import connect, server_version, wrapped_errors
from connectors.mysql_readiness import look_for_position
from connectors.mysql_schema import check_capture, check_captured_table
from connectors.source_structure import Structure, read_structure
from processors.alarms import Alarm, AlarmKind
from processors.errors import (
    ConnectError,
    SettingsError,
    TrsError,
    UnavailableError,
    UsageError,
)
from processors.tables import TABLES, all_topics

Report = Callable[[str], None]
_POLL_S = 0.2
_STEADY_S = 1.0
"""How long a connector must run before it counts: one that is given another configuration runs on for a moment."""


@dataclass(frozen=True)
class Planned:
    """A connector's configuration, secrets included, and what to tell about it."""

    plan: ConnectorPlan
    config: dict[str, str] = field(repr=False)
    server: str
    notices: list[str]

    @property
    def name(self) -> str:
        return self.plan.name


def connector_name(settings: Settings) -> str:
    """The connector's name in Kafka Connect: TRS_CONNECTOR, else that of the newest source."""
    return settings.connector or f"trs-{_newest_source(settings)}"


def connect_client(settings: Settings, *, patience_s: float | None = None) -> ConnectClient:
    """Kafka Connect at TRS_CONNECT. Raises UsageError for what is no URL."""
    return ConnectClient(settings.connect.get_secret_value(), patience_s=patience_s)


def plan_connector(
    settings: Settings, *, snapshot: Snapshot = "initial", version: str | None = None, check: bool = True
) -> Planned:
    """The connector of these settings. Unless `version` is given, the server is asked for it, and checked if `check`.

    Raises SettingsError, and SourceError for a server or table that cannot be captured.
    """
    url = database_url(settings)
    kafka = kafka_config(settings)
    notices: list[str] = []
    if version is None:
        with wrapped_errors(url), connect(url) as connection:
            version = server_version(connection)
            if check:
                check_capture(connection, url)
                for table in TABLES:
                    notices += check_captured_table(connection, url, table)
    flavour = flavour_of(version)
    if flavour is Flavour.AURORA and snapshot == "initial":
        notices.append(
            "Aurora grants no global lock: the tables are locked one by one (LOCK TABLES is needed) until all rows are"
            " read; --snapshot no_data, and `trs bootstrap snapshot` once the connector runs, locks nothing"
        )
    options = settings.connector_options
    plan = ConnectorPlan(
        name=connector_name(settings),
        source_name=_newest_source(settings),
        topic_prefix=settings.topic_prefix,
        partitions=settings.partitions,
        flavour=flavour,
        database=url,
        kafka=kafka,
        snapshot=snapshot,
        kafka_ca_pem=None if settings.kafka_ca_file is None else settings.kafka_ca_file.read_text(encoding="utf-8"),
        options={} if options is None else parse_options(options.get_secret_value()),
    )
    return Planned(plan, render(plan), version, notices)


def validate(client: ConnectClient, planned: Planned) -> tuple[list[Problem], list[str]]:
    """What Kafka Connect and the connector refuse, and notices about extra options that may be misspelt."""
    with _redacted(planned):
        found = client.validate(planned.config)
    notices = []
    for option in planned.plan.options:
        likely = get_close_matches(option, found.known, n=1, cutoff=0.85)
        if likely and option not in found.known:
            notices.append(f"TRS_CONNECTOR_OPTIONS: {option} is no option of the connector, did you mean {likely[0]}?")
    return [Problem(p.option, redact(p.reason, planned.config)) for p in found.problems], notices


def register(
    settings: Settings,
    client: ConnectClient,
    planned: Planned,
    *,
    same_server: bool = False,
    wait_s: float,
    report: Report = lambda _line: None,
) -> None:
    """Makes the topics, has the configuration validated, registers it and waits until the connector runs.

    Raises UsageError with every reason of a refusal and for another server under a known name, ConnectError with the
    connector's own reason when it fails within `wait_s`.
    """
    known = client.config(planned.name)
    if known is not None and not same_server:
        check_same_server(planned, known)
    problems, notices = validate(client, planned)
    for notice in notices:
        report(notice)
    if problems:
        raise refusal(problems)
    made = ensure_topics(kafka_config(settings), all_topics(settings.topic_prefix), settings.partitions)
    if made:
        report(f"topics made: {', '.join(made)}")
    with _redacted(planned):
        client.put(planned.name, planned.config)
    report(f"{planned.name} is {'registered' if known is None else 'registered anew'}")
    if wait_s > 0:
        await_running(client, planned.name, wait_s=wait_s)


def refusal(problems: list[Problem]) -> UsageError:
    """All problems as one error."""
    text = "; ".join(f"{p.option}: {p.reason}" for p in problems)
    hint = "correct TRS_DATABASE, TRS_KAFKA* or TRS_CONNECTOR_OPTIONS"
    if "Public Key Retrieval" in text:
        hint = "switch TLS on at the server, or TRS_CONNECTOR_OPTIONS='{\"driver.allowPublicKeyRetrieval\": true}'"
    return UsageError(f"the connector refuses its configuration: {text}", hint=hint)


def current_state(client: ConnectClient, name: str) -> ConnectorState:
    """What the connector and its tasks do, without any part before the first answer of a worker.

    Raises UsageError if it is not registered.
    """
    state, config = client.state(name), client.config(name)
    if config is None:
        raise client.unknown(name)
    parts = () if state is None else state.parts
    reasons = (None if p.reason is None else redact(p.reason, config) for p in parts)
    return ConnectorState(name, tuple(replace(p, reason=r) for p, r in zip(parts, reasons, strict=True)))


def look_for_binlog(settings: Settings, position: Mapping[str, Any] | None) -> tuple[list[Alarm], list[str]]:
    """Alarms and notices: does the server still have the binlog in which the connector goes on?

    No alarm where the server cannot be asked: `source_structure` says so.
    """
    if position is None or "file" not in position or settings.database is None:
        return [], []
    url = database_url(settings)
    try:
        with wrapped_errors(url), connect(url) as connection:
            return look_for_position(connection, url, str(position["file"]))
    except TrsError:
        return [], []


def capture_alarms(settings: Settings) -> list[Alarm]:
    """Where TRS_CONNECT is set and has the connector: that it does not run, or that its binlog is gone."""
    if "connect" not in settings.model_fields_set:
        return []
    name = connector_name(settings)
    try:
        client = connect_client(settings)
        if client.config(name) is None:
            return []
        state, position = current_state(client, name), client.position(name)
    except TrsError as error:
        return [Alarm(AlarmKind.CONNECT_AWAY, name, error.message, error.hint or "look at Kafka Connect")]
    alarms, _ = look_for_binlog(settings, position)
    if not state.runs:
        found = ", ".join(sorted(state.states)).lower() or "of no state yet"
        reason = "" if state.failure is None else f": {state.failure}"
        todo = "trs connector status, trs connector resume"
        alarms.insert(0, Alarm(AlarmKind.CONNECTOR_STANDS, name, f"the connector is {found}{reason}", todo))
    return alarms


def source_structure(settings: Settings) -> Structure:
    """The tables of TRS_DATABASE against their declarations; a notice where they cannot be looked at."""
    if settings.database is None:
        return Structure((), ("TRS_DATABASE is not set: the source's tables were not looked at",), is_source=False)
    try:
        return read_structure(database_url(settings))
    except TrsError as error:
        notice = f"the source's tables were not looked at: {error}"
        return Structure((), (notice,), is_source=False, problem=str(error))


def pause(client: ConnectClient, name: str, *, wait_s: float) -> None:
    """Pauses a connector and waits until it and its tasks are. Raises ConnectError for one that failed."""
    client.pause(name)
    _await(client, name, lambda state: state is not None and state.states == {"PAUSED"}, "paused", wait_s)


def resume(client: ConnectClient, name: str, *, wait_s: float) -> None:
    """Lets a connector go on, what has failed of it too, and waits until it runs. Raises ConnectError if it fails."""
    client.resume(name)
    state = client.state(name)
    if state is not None and state.failure is not None:
        client.restart_failed(name)
    await_running(client, name, wait_s=wait_s)


def await_running(client: ConnectClient, name: str, *, wait_s: float) -> None:
    """Waits until the connector has run for a second. Raises ConnectError if it fails."""
    since: float | None = None

    def steady(state: ConnectorState | None) -> bool:
        nonlocal since
        if state is None or not state.runs:
            since = None
            return False
        since = since or time.monotonic()
        return time.monotonic() - since >= _STEADY_S

    _await(client, name, steady, "running", wait_s)


def delete(client: ConnectClient, name: str, *, forget: bool, wait_s: float) -> None:
    """Removes a connector and waits until it is gone. `forget` deletes its position first, for which it is stopped."""
    if forget:
        client.stop(name)
        _await(client, name, lambda s: s is not None and s.states == {"STOPPED"}, "stopped", wait_s, failed=True)
        client.forget_position(name)
    client.delete(name)
    _await(client, name, lambda state: state is None, "gone", wait_s, failed=True)


def _await(
    client: ConnectClient,
    name: str,
    reached: Callable[[ConnectorState | None], bool],
    what: str,
    wait_s: float,
    *,
    failed: bool = False,
) -> None:
    """Polls the connector's state. `failed`: a failure of the connector does not matter."""
    deadline = time.monotonic() + wait_s
    failing_since: float | None = None
    while True:
        state = client.state(name)
        if reached(state):
            return
        failure = None if state is None or failed else state.failure
        if failure is None:
            failing_since = None
        else:
            # what failed before it was told to go on is shown as failed for a moment
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since >= _STEADY_S:
                shown = redact(failure, client.config(name) or {})
                raise ConnectError(f"connector {name} failed: {shown}", hint=_AFTER_FAILURE)
        if time.monotonic() > deadline:
            now = "unknown" if state is None else ", ".join(sorted(state.states))
            raise UnavailableError(
                f"connector {name} is not {what} after {wait_s:.0f} s but {now}", hint="see trs connector status"
            )
        time.sleep(_POLL_S)


_AFTER_FAILURE = "correct the cause, then `trs connector register` or `trs connector resume`"


def _newest_source(settings: Settings) -> str:
    if not settings.source_names:
        raise SettingsError("TRS_SOURCE_NAMES is empty, and a connector needs a name for its source")
    return settings.source_names[-1]


def check_same_server(planned: Planned, known: dict[str, str]) -> None:
    """Positions of two servers do not compare (R2): another server needs another source name."""
    before, now = (
        (c.get("topic.prefix"), f"{c.get('database.hostname')}:{c.get('database.port')}")
        for c in (known, planned.config)
    )
    if before[0] == now[0] and before[1] != now[1]:
        raise UsageError(
            f"connector {planned.name} reads {before[1]} as source {before[0]}, and shall now read {now[1]}",
            hint="another server: append a new name to TRS_SOURCE_NAMES; the same server elsewhere: --same-server",
        )


def check_same_capture(planned: Planned, known: dict[str, str]) -> None:
    """A cut-over goes on with a connector of that name only if it reads what is planned, and sends it there.

    Raises UsageError: of another server, database or name of the source its position says nothing, and what it sends
    to other topics reaches another lake.
    """
    check_same_server(planned, known)
    before, now = captured(known), captured(planned.config)
    different = [f"{what} {before[what]} and not {now[what]}" for what in now if before[what] != now[what]]
    if different:
        raise UsageError(
            f"Kafka Connect has a connector {planned.name} of something else: it has {', '.join(different)}",
            hint="name another in TRS_CONNECTOR, or correct TRS_DATABASE, TRS_SOURCE_NAMES or TRS_TOPIC_PREFIX;"
            " `trs connector delete --forget` takes that one away if nobody needs it",
        )


@contextmanager
def _redacted(planned: Planned) -> Iterator[None]:
    """Errors inside lose the configuration's secrets."""
    try:
        yield
    except TrsError as error:
        error.message = redact(error.message, planned.config)
        raise
