"""`trs dead-letters`: records that were refused, and what is done about them."""

import json
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Records that were refused: see, send again, or put aside.")

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="dead-letters")


@group.command(epilog="Example: TRS_DEAD_LETTER_STOP=bad_position,unknown_source trs worker")
def reasons(as_json: _JSON = False) -> None:
    """Show every reason and its meaning. The worker goes on after each, unless TRS_DEAD_LETTER_STOP names it."""
    from rich.console import Console
    from rich.table import Table

    from app.settings import load_settings
    from processors.reasons import Reason

    stop = load_settings().dead_letter_stop
    if as_json:
        rows = [{"reason": str(r), "meaning": r.meaning, "stops_the_worker": r in stop} for r in Reason]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("reason", "the worker", "meaning", box=None, header_style="bold")
    for reason in Reason:
        table.add_row(reason, "stops" if reason in stop else "goes on", reason.meaning)
    Console(highlight=False).print(table)
