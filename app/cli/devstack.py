"""`trs devstack`: the embedded Kafka, database and S3 server."""

import json
import shlex
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from devstack.part import Advance
    from devstack.stack import Stack

group = typer.Typer(
    no_args_is_help=True,
    epilog="Example: trs devstack up && trs devstack status",
    help="The embedded stack: Kafka, a MariaDB server with row binlog, S3 and Glue, on demand Kafka Connect and Trino; "
    "no Docker, no root, no Java of one's own. Its state lives below TRS_HOME; commands find it by themselves while it "
    "is up.",
)
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class OptionalPart(StrEnum):
    """What a stack has on demand."""

    CONNECT = "connect"
    TRINO = "trino"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="devstack")


@group.command(epilog="Example: trs devstack up --with connect && trs devstack status")
def up(
    optional: Annotated[
        list[OptionalPart] | None,
        typer.Option(
            "--with",
            help="Also `connect`: Kafka Connect with Debezium's connectors (55 MB more, once); or `trino`: a Trino "
            "server (820 MB more, once). May be given twice.",
        ),
    ] = None,
) -> None:
    """Start the stack, or what is missing of it. The first start downloads about 200 MB and keeps them per user."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from devstack.stack import PartFailedError

    console = Console(stderr=True)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def download(total: int) -> "Advance":
            console.print(f"downloading {total / 1e6:.0f} MB, once per user", highlight=False)
            task = progress.add_task("download", total=total)
            return lambda count: progress.advance(task, count)

        def report(part: str, message: str) -> None:
            console.print(f"[bold]{part}[/bold] {message}", highlight=False)

        stack = _stack()
        try:
            environment = stack.up(optional=optional or (), download=download, report=report)
        except PartFailedError as failure:
            console.print(failure.log_tail, markup=False, highlight=False, style="dim")
            raise
    console.print(f"the stack is up after {time.monotonic() - began:.1f} s; state: {stack.folder}", highlight=False)
    for name in ("TRS_KAFKA", "TRS_DATABASE", "TRS_CONNECT", "TRS_LAKE", "TRS_AWS_ENDPOINT"):
        if name in environment:
            typer.echo(f"{name}={environment[name]}")
    trino = next((part.port for part in stack.status() if part.name == OptionalPart.TRINO), None)
    if trino is not None:
        typer.echo(f"Trino: http://127.0.0.1:{trino}, any user, catalog awsdatacatalog; trs lake register fills it")


@group.command(epilog="Example: trs devstack down --wipe")
def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete topics, database and S3 content as well.")] = False,
) -> None:
    """End the processes of this stack (of this TRS_HOME only) and wait for them; `up` finds their data again."""
    stack = _stack()
    ended = stack.down(wipe=wipe)
    typer.echo(f"ended: {', '.join(ended)}" if ended else f"nothing was running in {stack.folder}")
    if wipe:
        typer.echo("topics, database and S3 content are deleted")
    elif ended:
        typer.echo(f"topics, database and S3 content are kept in {stack.folder} (--wipe deletes them)")


@group.command(epilog="Example: trs devstack status --json")
def status(as_json: _JSON = False) -> None:
    """Tell each part's state; the exit code is 0 only if all parts run."""
    from rich.table import Table

    from devstack.stack import State

    parts = _stack().status()
    if as_json:
        values = [
            {
                "part": p.name,
                "state": p.state.value,
                "port": p.port,
                "pid": p.pid,
                "memory_bytes": p.memory_bytes,
                "log": str(p.log),
                "log_tail": p.log_tail,
            }
            for p in parts
        ]
        typer.echo(json.dumps({"parts": values}, indent=2))
    else:
        table = Table("part", "state", "port", "pid", "memory")
        colours = {State.RUNNING: "green", State.CRASHED: "red", State.STOPPED: "yellow"}
        for p in parts:
            memory = "" if p.memory_bytes is None else f"{p.memory_bytes / 1e6:.0f} MB"
            state = f"[{colours[p.state]}]{p.state.value}[/]"
            table.add_row(p.name, state, str(p.port or ""), str(p.pid or ""), memory)
        console = Console()
        console.print(table)
        for p in parts:
            if p.state is State.CRASHED:
                console.print(f"[red]{p.name} crashed[/red]; the end of {p.log}:", soft_wrap=True, highlight=False)
                console.print(p.log_tail or "(empty)", markup=False, highlight=False, style="dim")
    if any(p.state is not State.RUNNING for p in parts):
        raise typer.Exit(1)


@group.command(epilog='Example: eval "$(trs devstack env)"')
def env(
    as_json: _JSON = False,
    compose: Annotated[bool, typer.Option("--compose", help="Of docker-compose.yml instead.")] = False,
) -> None:
    """Print the settings that lead to the running stack, as lines for a shell."""
    from devstack.declared import Endpoints
    from processors.errors import UnavailableError

    values = Endpoints().environment if compose else _stack().environment()
    if values is None:
        raise UnavailableError("the embedded stack is not up", hint="start it: trs devstack up")
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        for name, value in values.items():
            typer.echo(f"export {name}={shlex.quote(value)}")


def _stack() -> "Stack":
    from app.settings import load_settings
    from processors.errors import UnavailableError

    try:
        from devstack.stack import Stack
    except ModuleNotFoundError as missing:
        raise UnavailableError(
            f"the embedded stack is not installed ({missing.name} is missing)",
            hint="install the extra: pip install 'trs-stream[devstack]'",
        ) from missing
    return Stack(Path(load_settings().home))
