"""Checks of the source database and of what sends its changes."""

import json
import time

from app.connector import connect_client, connector_name, current_state, look_for_binlog, source_structure
from app.doctor.checks import Finding, failed, not_looked_at, ok, warning
from app.doctor.lake import judge_skew
from app.settings import Settings, origins
from app.wiring import database_url
from connectors.mysql import connect, query, server_version, wrapped_errors
from connectors.mysql_readiness import check_replication_right, retention_notices
from connectors.mysql_schema import check_capture, check_server
from processors.errors import TrsError, UnavailableError, UsageError

_NO_DATABASE = "TRS_DATABASE is not set: rows come from extracts, exports or another machine's connector"
_PATIENCE_S = 4.0
_FOR_CDC = "needed for change data capture only: docs/cdc.md"


def look_at_server(settings: Settings) -> list[Finding]:
    """Does it answer, what is it."""
    if settings.database is None:
        return [not_looked_at(_NO_DATABASE)]
    url = database_url(settings)
    with wrapped_errors(url), connect(url) as connection:
        return [ok(f"{url}: {server_version(connection)}")]


def look_at_tables(settings: Settings) -> list[Finding]:
    """Are the tables as declared; may they be read."""
    found = source_structure(settings)
    if settings.database is not None and not found.is_source and found.problem is None:
        return [warning(f"{database_url(settings)} has none of the declared tables", "check the name in the URL")]
    findings = [failed(f"{alarm.subject}: {alarm.message}", alarm.hint) for alarm in found.alarms]
    findings += [warning(notice, "docs/schema_changes.md") for notice in found.notices]
    return findings or [ok("the declared tables are there, as declared")]


def look_at_capture(settings: Settings) -> list[Finding]:
    """The binlog: whole rows, the right to read it, kept long enough. No failure: not everybody captures changes."""
    if settings.database is None:
        return [not_looked_at(_NO_DATABASE)]
    url = database_url(settings)
    with wrapped_errors(url), connect(url) as connection:
        server = check_server(connection, url)
        findings = [warning(notice, _FOR_CDC) for notice in server.notices]
        if not server.has_binlog:
            return findings
        try:
            check_capture(connection, url)
            findings += [warning(n, _FOR_CDC) for n in check_replication_right(connection, url)]
        except TrsError as error:
            findings = [warning(error.message, f"{error.hint}; {_FOR_CDC}")]
        findings += [warning(n, _FOR_CDC) for n in retention_notices(connection, url)]
    return findings or [ok("the binlog holds whole rows, may be read, and is kept for a day or more")]


def look_at_clock(settings: Settings) -> list[Finding]:
    """The database's clock against the one here."""
    if settings.database is None:
        return [not_looked_at(_NO_DATABASE)]
    url = database_url(settings)
    with wrapped_errors(url), connect(url) as connection:
        before_s = time.time()
        ((told_s,),) = query(connection, "SELECT UNIX_TIMESTAMP(NOW(6))")
        after_s = time.time()
    return [
        judge_skew("the database", float(told_s) - (before_s + after_s) / 2, resolution_s=max(0.1, after_s - before_s))
    ]


def look_at_connect(settings: Settings) -> list[Finding]:
    """Kafka Connect and our connector in it."""
    client = connect_client(settings, patience_s=_PATIENCE_S)
    try:
        plugins = client.plugins()
    except UnavailableError as error:
        if origins(settings)["connect"].name == "default":
            return [not_looked_at("TRS_CONNECT is not set, and no Kafka Connect runs on this machine")]
        raise error
    debezium = {kind.rpartition(".")[2]: version for kind, version in plugins.items() if "debezium" in kind}
    told = f"{client.where} answers, with {', '.join(f'{k} {v}' for k, v in sorted(debezium.items())) or 'no Debezium'}"
    name = connector_name(settings)
    try:
        state = current_state(client, name)
    except UsageError as error:
        return [ok(told), not_looked_at(error.message, error.hint)]
    if state.failure is not None:
        return [ok(told), failed(f"connector {name} failed: {state.failure}", "docs/cdc.md; `trs connector resume`")]
    if not state.runs:
        states = ", ".join(sorted(state.states)) or "without a state yet"
        return [ok(told), warning(f"connector {name} does not run: {states}", "`trs connector resume`")]
    position = client.position(name)
    where = "no position noted yet" if position is None else f"at {json.dumps(_place(position))}"
    alarms, _ = look_for_binlog(settings, position)
    findings = [failed(f"{alarm.subject}: {alarm.message}", alarm.hint) for alarm in alarms]
    return [ok(told), *(findings or [ok(f"connector {name} runs, {where}")])]


def _place(position: dict[str, object]) -> dict[str, object]:
    return {k: position[k] for k in ("file", "pos") if k in position}
