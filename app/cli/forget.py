"""`trs lake forget`: erasure of one account's personal data."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from rich.console import Console

    from app.forget import Forgetting


def register(app: typer.Typer) -> None:
    """Nothing: the command is a part of the group `lake`."""


@lake.command(epilog="Example: trs lake forget 1042 && trs lake forget 1042 --apply")
def forget(
    account: Annotated[int, typer.Argument(help="The account_id.")],
    apply: Annotated[bool, typer.Option("--apply/--plan", help="Erase, or only say what would be erased.")] = False,
    at_rest: Annotated[
        bool,
        typer.Option(
            "--at-rest",
            help="No worker and no query runs: delete files of older versions at once, not after 90 minutes.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Erase an account's personal data: contact columns, undeclared columns, dead letters, and older versions of these.

    Rows stay, emptied; invoices and features stay whole. Delete the data at the source first: what the source still has
    comes back with the next diff, snapshot or change. Workers go on meanwhile. Files of older versions are deleted once
    nobody reads them: call again after that, or leave it to the workers' upkeep. May be interrupted and called
    again. Exit code 6 while something is left. docs/security.md says what is kept where, and what to do about topics.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    from app.forget import forget as run
    from app.settings import load_settings
    from app.signals import stop_requests
    from connectors.purge import GRACE

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        stop_requests() as stop,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars,
    ):
        tasks: dict[str, TaskID] = {}

        def report(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=total)
            bars.update(tasks[table], completed=done, total=total)

        outcome = run(
            load_settings(),
            account,
            apply_it=apply,
            grace=timedelta(0) if at_rest else GRACE,
            progress=report,
            stopped=lambda: stop.signal is not None,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(outcome), indent=2))
    else:
        _print(Console(highlight=False, soft_wrap=True), outcome, applied=apply)
    if outcome.stopped:
        console.print("stopped: call again to go on", style="yellow")
        raise typer.Exit(128 + (stop.signal or 2))
    if apply and not outcome.done:
        raise typer.Exit(6)


def _as_json(outcome: "Forgetting") -> object:
    from app.printing import plain

    return {
        "run_id": outcome.run_id,
        "account_id": outcome.account_id,
        "source_row": outcome.source_row,
        "done": outcome.done,
        "tables": {
            f.table.name: {
                "rows": f.rows,
                "files": len(f.files),
                "bytes": f.size_bytes,
                "erased": outcome.erased.get(f.table.name, 0),
                "purged": outcome.purged.get(f.table.name, 0),
                "left": outcome.left[f.table.name].due,
                "waiting": outcome.left[f.table.name].waiting,
                "until": plain(outcome.left[f.table.name].until),
            }
            for f in outcome.found
        },
    }


def _print(out: "Console", outcome: "Forgetting", *, applied: bool) -> None:
    from processors.features.as_of import format_time

    account = outcome.account_id
    for found in outcome.found:
        name, left = found.table.name, outcome.left[found.table.name]
        if applied:
            out.print(
                f"{name}: {outcome.erased.get(name, 0):,} rows of account {account} emptied,"
                f" {outcome.purged.get(name, 0):,} files of older versions deleted"
            )
        else:
            out.print(
                f"{name}: {found.rows:,} rows hold personal data of account {account},"
                f" in {len(found.files):,} files ({found.size_bytes / 1e6:,.1f} MB) to be rewritten"
            )
        if left.due and not applied:
            out.print(f"{name}: {left.due:,} files of older versions are left of an erasure and can be deleted now")
        if left.waiting and left.until is not None:
            out.print(
                f"{name}: {left.waiting:,} files of older versions may still be read;"
                f" the last can be deleted {format_time(left.until.replace(microsecond=0))}",
                style="yellow",
            )
    if outcome.source_row == "live":
        out.print(
            f"The source had account {account} when the lake last read it. What it still has of it comes back with the"
            " next diff, snapshot or change: erase it there first.",
            style="yellow",
        )
    if any(outcome.erased.values()):
        out.print(
            "Topics and backups are not touched: what was made before holds the account until it is deleted"
            " (docs/security.md).",
            style="yellow",
        )
    if not applied and any(f.rows for f in outcome.found):
        out.print(f"Nothing was changed: `trs lake forget {account} --apply` does it.")
