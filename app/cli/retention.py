"""`trs lake retain`: how finely the history of features is kept."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from rich.table import Table

    from app.retention import Retention


def register(app: typer.Typer) -> None:
    """Nothing: the command is a part of the group `lake`."""


@lake.command(epilog="Example: trs lake retain --tiers 90d:all,1y:day,*:month && trs lake retain --apply")
def retain(
    apply: Annotated[
        bool, typer.Option("--apply/--plan", help="Thin the history, or only say what would become of it.")
    ] = False,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="What is kept by age: all changes, or the ends of days, weeks, … Default: TRS_HISTORY_TIERS."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Thin the history of features by age, exactly: an as-of at a kept moment has the same answer before and after.

    Current rows, the logs and reconstructed months stay. Files of rows that went are removed by `trs lake maintain`,
    when time travel does not need them any more. May be interrupted and called again. docs/retention.md.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from app.retention import retain as run
    from app.settings import load_settings
    from app.signals import stop_requests

    settings = load_settings()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        stop_requests() as stop,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars,
    ):
        tasks: dict[tuple[str, str], TaskID] = {}

        def report(table: str, what: str, done: int, total: int) -> None:
            if (table, what) not in tasks:
                tasks[table, what] = bars.add_task(f"{table}: {what}", total=total)
            bars.update(tasks[table, what], completed=done, total=total)

        outcome = run(
            settings,
            tiers or settings.history_tiers,
            apply_it=apply,
            progress=report,
            stopped=lambda: stop.signal is not None,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(outcome), indent=2))
    else:
        _print(outcome, applied=apply)
    if outcome.stopped:
        console.print("stopped: call again to go on", style="yellow")
        raise typer.Exit(128 + (stop.signal or 2))


def _as_json(outcome: "Retention") -> object:
    from app.printing import plain

    done = {d.table: d for d in outcome.done}
    return {
        "run_id": outcome.run_id,
        "tiers": outcome.tiers,
        "tables": {
            p.table: {
                "zones": [
                    {
                        "begin": plain(z.zone.begin),
                        "end": plain(z.zone.end),
                        "step": z.zone.step,
                        "rows": z.rows,
                        "kept": z.kept,
                        "not_folded_yet": z.waiting,
                    }
                    for z in p.zones
                ],
                "dropped": p.dropped,
                "days": len(p.days),
                "bytes_freed": round(p.dropped * p.bytes_per_row),
                "thinned_rows": done[p.table].rows if p.table in done else 0,
                "missed_days": done[p.table].missed if p.table in done else 0,
            }
            for p in outcome.plans
        },
    }


def _print(outcome: "Retention", *, applied: bool) -> None:
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    out.print(_as_table(outcome))
    for found in outcome.plans:
        size = found.dropped * found.bytes_per_row / 1e6
        out.print(f"{found.table}: {found.dropped:,} rows of {len(found.days):,} days go, about {size:,.1f} MB")
        waiting = sum(z.waiting for z in found.zones)
        if waiting:
            out.print(
                f"{found.table}: {waiting:,} more could go once they are folded (`trs lake fold`)", style="yellow"
            )
    for done in outcome.done:
        out.print(f"{done.table}: {done.rows:,} rows of {done.days:,} days are gone")
        if done.missed:
            out.print(f"{done.table}: {done.missed} days were being rewritten: call again", style="yellow")
    if not applied and any(p.dropped for p in outcome.plans):
        out.print("Nothing was changed: `trs lake retain --apply` does it.")


def _as_table(outcome: "Retention") -> "Table":
    from rich.table import Table

    from processors.features.as_of import format_time

    table = Table("table", "through", "kept of it", "rows", "stay", box=None, header_style="bold")
    for found in outcome.plans:
        for z in found.zones:
            through = "now" if z.zone.end is None else format_time(z.zone.end)
            step = {"all": "every change", "none": "its end"}.get(z.zone.step, f"ends of {z.zone.step}s")
            table.add_row(found.table, through, step, f"{z.rows:,}", f"{z.kept:,}")
    return table
