"""`trs connector`: Debezium's connector, which sends every change of the source database to the topics."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from app.connector import Planned
    from connectors.connect_rest import ConnectorState
    from connectors.source_structure import Structure

group = typer.Typer(
    no_args_is_help=True,
    help="Change data capture: Debezium's connector in a Kafka Connect cluster (TRS_CONNECT), for the database of "
    "TRS_DATABASE. Its configuration follows from the settings and from what the server says that it is.",
    epilog="Example: trs devstack up --with connect && trs connector register && trs connector status",
)

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_SNAPSHOT = Annotated[
    Literal["initial", "no_data", "recovery"],
    typer.Option(
        help="What it reads before the first change: initial all rows, no_data only the tables' structure, "
        "recovery that structure again, when the topic that keeps it was lost. A connector that has a position goes "
        "on from there."
    ),
]
_VERSION = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="The server's version, as 11.4.5-MariaDB, 9.7.4 or 8.0.mysql_aurora.3.08.2: the server is not asked, nor "
        "checked. For databases that only Kafka Connect reaches.",
    ),
]
_WAIT = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the outcome.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="connector")


@group.command(epilog="Example: trs connector render --server-version 8.0.mysql_aurora.3.08.2")
def render(
    snapshot: _SNAPSHOT = "initial",
    server_version: _VERSION = None,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Print passwords as well, as Kafka Connect takes the configuration.")
    ] = False,
) -> None:
    """Print the connector's configuration as JSON, passwords masked; nothing is sent anywhere.

    References such as ${file:/run/secrets/db:password} in TRS_CONNECTOR_OPTIONS are printed as they are: Kafka Connect
    resolves them.
    """
    from app.connector import plan_connector
    from app.settings import load_settings
    from connectors.debezium import hide_secrets

    planned = plan_connector(load_settings(), snapshot=snapshot, version=server_version, check=False)
    _tell(planned)
    config = planned.config if with_secrets else hide_secrets(planned.config)
    typer.echo(json.dumps(config, indent=2, ensure_ascii=False))


@group.command("dms-render", epilog="Example: trs connector dms-render --part task --with-secrets > task.json")
def dms_render(
    migration: Annotated[
        Literal["cdc", "full-load-and-cdc"],
        typer.Option(
            help="What the task does: cdc sends every change behind the position where the binlog ends now, and "
            "`trs bootstrap snapshot` sends the rows; full-load-and-cdc loads the tables first."
        ),
    ] = "cdc",
    part: Annotated[
        Literal["source", "target", "task"] | None,
        typer.Option(help="Only this one, as aws dms create-endpoint or create-replication-task --cli-input-json."),
    ] = None,
    server_version: _VERSION = None,
    with_secrets: Annotated[bool, typer.Option("--with-secrets", help="Print passwords as well.")] = False,
) -> None:
    """Print what AWS DMS is to be told in place of Debezium, as JSON, passwords masked; nothing is sent anywhere.

    Two endpoints and a task, in the shapes of DMS's API. Database and tables are checked first. docs/dms.md has the
    steps; `trs dms translate` is the other half.
    """
    from app.dms import plan_dms
    from app.printing import message
    from app.settings import load_settings
    from connectors.dms_task import hide_secrets

    planned = plan_dms(load_settings(), migration=migration, version=server_version)
    message(f"the server is {planned.server}")
    for notice in planned.notices:
        message(notice, warning=True)
    shown = planned.arguments if part is None else planned.arguments[part]
    typer.echo(json.dumps(shown if with_secrets else hide_secrets(shown), indent=2, ensure_ascii=False))


@group.command(epilog="Example: trs connector validate")
def validate(snapshot: _SNAPSHOT = "initial", server_version: _VERSION = None, as_json: _JSON = False) -> None:
    """Check database and tables, then have the connector check its configuration; nothing is registered.

    Shows the connector's own reasons. Exit code 2 if there are any.
    """
    from app.connector import connect_client, plan_connector, refusal
    from app.connector import validate as run
    from app.printing import message
    from app.settings import load_settings

    settings = load_settings()
    planned = plan_connector(settings, snapshot=snapshot, version=server_version)
    _tell(planned)
    problems, notices = run(connect_client(settings), planned)
    for notice in notices:
        message(notice, warning=True)
    if as_json:
        typer.echo(json.dumps({"connector": planned.name, "problems": [asdict(p) for p in problems]}, indent=2))
    if problems:
        raise refusal(problems)
    if not as_json:
        typer.echo(f"{planned.name}: the connector accepts its configuration")


@group.command("register", epilog="Example: trs connector register --snapshot no_data && trs bootstrap snapshot")
def register_connector(
    snapshot: _SNAPSHOT = "initial",
    server_version: _VERSION = None,
    same_server: Annotated[
        bool, typer.Option("--same-server", help="The database has another address, but is the same server.")
    ] = False,
    wait_s: _WAIT = 60,
    as_json: _JSON = False,
) -> None:
    """Register the connector, or give the registered one these settings, and wait until it runs.

    Database, tables and configuration are checked first, and the topics are made.
    """
    from rich.console import Console

    from app.connector import connect_client, current_state, plan_connector
    from app.connector import register as run
    from app.printing import message
    from app.settings import load_settings

    settings = load_settings()
    client = connect_client(settings)
    console = Console(stderr=True)
    with console.status("looking at the database"):
        planned = plan_connector(settings, snapshot=snapshot, version=server_version)
    _tell(planned)
    with console.status("waiting for Kafka Connect"):
        run(settings, client, planned, same_server=same_server, wait_s=wait_s, report=message)
    _show(current_state(client, planned.name), client.position(planned.name), as_json=as_json)


@group.command(epilog="Example: trs connector status --json")
def status(as_json: _JSON = False) -> None:
    """Show what the connector and its task do, and where in the binlog it stands.

    Of TRS_DATABASE it says whether the tables are as declared: a renamed one is captured no more, though all runs; and
    whether the server still has the binlog in which the connector goes on. Exit code 0 only if connector and task run
    and nothing is wrong with the source, or it could not be looked at.
    """
    from app.connector import connect_client, connector_name, current_state, look_for_binlog, source_structure
    from app.settings import load_settings

    settings = load_settings()
    client, name = connect_client(settings), connector_name(settings)
    state = current_state(client, name)
    position = client.position(name)
    structure = source_structure(settings)
    alarms, notices = look_for_binlog(settings, position)
    structure = replace(structure, alarms=(*alarms, *structure.alarms), notices=(*notices, *structure.notices))
    _show(state, position, as_json=as_json, structure=structure)
    if not state.runs or structure.alarms:
        raise typer.Exit(1)


@group.command(epilog="Example: trs connector pause && trs connector resume")
def pause(wait_s: _WAIT = 30) -> None:
    """Let the connector rest; it keeps its position, and the binlog must keep what follows it."""
    from app.connector import connect_client, connector_name
    from app.connector import pause as run
    from app.settings import load_settings

    settings = load_settings()
    name = connector_name(settings)
    run(connect_client(settings), name, wait_s=wait_s)
    typer.echo(f"{name} is paused")


@group.command(epilog="Example: trs connector resume && trs connector status")
def resume(wait_s: _WAIT = 60) -> None:
    """Let a paused connector go on, or one that failed begin again, where it stopped."""
    from app.connector import connect_client, connector_name
    from app.connector import resume as run
    from app.settings import load_settings

    settings = load_settings()
    name = connector_name(settings)
    run(connect_client(settings), name, wait_s=wait_s)
    typer.echo(f"{name} runs")


@group.command(epilog="Example: trs connector delete --forget")
def delete(
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete its position as well: the next registration begins anew.")
    ] = False,
    wait_s: _WAIT = 60,
) -> None:
    """Remove the connector from Kafka Connect. Topics and its position stay; registered again, it goes on there."""
    from app.connector import connect_client, connector_name
    from app.connector import delete as run
    from app.settings import load_settings

    settings = load_settings()
    name = connector_name(settings)
    run(connect_client(settings), name, forget=forget, wait_s=wait_s)
    typer.echo(f"{name} is deleted{', with its position' if forget else '; its position is kept'}")


def _tell(planned: "Planned") -> None:
    """On stderr: the server, and what is to be known about it."""
    from app.printing import message

    message(f"{planned.plan.database} is {planned.plan.flavour}: {planned.server}")
    for notice in planned.notices:
        message(notice, warning=True)


def _show(
    state: "ConnectorState",
    position: dict[str, object] | None,
    *,
    as_json: bool,
    structure: "Structure | None" = None,
) -> None:
    """The state on stdout, with what is wrong with the source's tables; notices about them on stderr."""
    from rich.markup import escape
    from rich.table import Table

    from app.printing import message, wide_console

    if as_json:
        parts = [asdict(p) for p in state.parts]
        found: dict[str, object] = {"connector": state.name, "parts": parts, "position": position}
        if structure is not None:
            found |= {"alarms": [asdict(a) for a in structure.alarms], "notices": list(structure.notices)}
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("part", "state", "worker", "", box=None, header_style="bold")
    colours = {"RUNNING": "green", "FAILED": "red"}
    for part in state.parts:
        name = state.name if part.number is None else f"task {part.number}"
        shown = f"[{colours.get(part.state, 'yellow')}]{part.state}[/]"
        table.add_row(name, shown, part.worker, escape(part.reason or ""))
    console = wide_console()
    console.print(table)
    if position is not None:
        snapshot = ", in its snapshot" if position.get("snapshot") else ""
        console.print(f"position: {position.get('file')}:{position.get('pos')}{snapshot}")
    else:
        console.print("position: none noted yet")
    if structure is not None:
        for alarm in structure.alarms:
            console.print(f"alarm: {alarm}", style="red", markup=False)
        for notice in structure.notices:
            message(notice, warning=True)
