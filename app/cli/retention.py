"""`trs lake retain` and `trs lake advise`: how finely the history of features is kept, and what that costs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from app.advise import Advice
    from app.retention import Retention


def register(app: typer.Typer) -> None:
    """Nothing: the commands are a part of the group `lake`."""


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
                "bytes": p.size_bytes,
                "bytes_left": p.left_bytes,
                "day_files": p.day_files[0],
                "day_files_left": p.day_files[1],
                "thinned_rows": done[p.table].rows if p.table in done else 0,
                "overtaken": p.table in done and done[p.table].overtaken,
            }
            for p in outcome.plans
        },
    }


def _print(outcome: "Retention", *, applied: bool) -> None:
    from rich.console import Console

    from processors.features.as_of import format_time
    from processors.retention import kept_words

    out = Console(highlight=False, soft_wrap=True)
    out.print(_as_table(outcome))
    for found in outcome.plans:
        out.print(
            f"{found.table}: {found.dropped:,} rows of {len(found.days):,} days go; {found.size_bytes / 1e6:,.1f} MB in"
            f" {found.day_files[0]:,} days become about {found.left_bytes / 1e6:,.1f} MB in {found.day_files[1]:,} days"
        )
        waiting = sum(z.waiting for z in found.zones)
        if waiting:
            out.print(
                f"{found.table}: {waiting:,} more could go once they are folded (`trs lake fold`)", style="yellow"
            )
    for done in outcome.done:
        out.print(f"{done.table}: {done.rows:,} rows of {done.days:,} days are gone")
        if done.overtaken:
            out.print(f"{done.table}: another run thins it too; the rest is left to that one", style="yellow")
    for zone in outcome.zones:
        if zone.end is not None:
            since = "" if zone.begin is None else f" after {format_time(zone.begin)}"
            out.print(
                f"Of times{since} through {format_time(zone.end)} an as-of answers exactly for {kept_words(zone.step)};"
                " for others it may lack versions, and says so. On the axis `valid` it may for any of them.",
                style="dim",
            )
    if not applied and any(p.dropped for p in outcome.plans):
        out.print("Nothing was changed: `trs lake retain --apply` does it.")


def _as_table(outcome: "Retention") -> "Table":
    from rich.table import Column, Table

    from processors.features.as_of import format_time
    from processors.retention import kept_words

    table = Table(Column("table", no_wrap=True), "through", "kept of it", "rows", "stay", box=None, header_style="bold")
    for found in outcome.plans:
        for z in found.zones:
            through = "now" if z.zone.end is None else format_time(z.zone.end)
            table.add_row(found.table, through, kept_words(z.zone.step), f"{z.rows:,}", f"{z.kept:,}")
    return table


@lake.command(epilog="Example: trs lake advise --tiers 180d:all,*:month --plot history.png")
def advise(
    tiers: Annotated[
        str | None, typer.Option(help="A plan of your own beside the usual ones. Default: TRS_HISTORY_TIERS.")
    ] = None,
    queries: Annotated[
        int, typer.Option("--queries", min=0, help="Queries of a whole history per month, as Athena bills them.")
    ] = 100,
    prices: Annotated[Path | None, typer.Option(help="A TOML file of prices like the shipped one.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the sizes into this .png, .svg or .pdf file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure how the history of features grows, and price what it costs to keep it: for 1, 3 and 10 years.

    Rows per day and sizes are measured in this lake; the first day, in which a snapshot arrives, is no churn.
    """
    from rich.console import Console

    from app.advise import advise as run
    from app.advise import plot as draw
    from app.settings import load_settings

    settings = load_settings()
    advice = run(settings, own=tiers or settings.history_tiers, prices=prices, queries_per_month=queries)
    if as_json:
        typer.echo(json.dumps(_advice_as_json(advice), indent=2))
    else:
        _print_advice(Console(highlight=False, soft_wrap=True), advice)
    if plot is not None:
        draw(advice.costs, plot)


def _advice_as_json(advice: "Advice") -> object:
    from dataclasses import asdict

    from app.printing import plain

    return plain(
        {
            "read_at": advice.read_at,
            "prices": advice.prices.model_dump(mode="json"),
            "queries_per_month": advice.queries_per_month,
            "other_tables": {"bytes": advice.other_bytes, "bytes_per_day": round(advice.other_bytes_per_day)},
            "time_travel_bytes_per_day": advice.rewritten_per_day,
            "histories": [
                asdict(c)
                | {"changed_per_day": c.changed_per_day}
                | {"bytes_per_row": round(c.bytes_per_row, 1), "changes_per_day": round(c.changes_per_day, 1)}
                for c in advice.churns
            ],
            "plans": [asdict(c) | {"dollars_per_month": round(c.dollars, 4)} for c in advice.costs],
            "recommended": {"tiers": advice.tiers, "reason": advice.reason},
        }
    )


def _time_travel(advice: "Advice") -> str:
    if advice.rewritten_per_day is None:
        return (
            "What Delta's time travel costs is not known: no worker or `trs lake maintain` has noted a day of upkeep."
        )
    a_day = advice.rewritten_per_day
    dollars = ", ".join(f"${a_day * n / 1e9 * advice.prices.storage_gb_month:,.2f} for {n} days" for n in (2, 7, 30))
    return (
        f"Delta's time travel keeps what folds and compactions replace, {a_day / 1e6:,.1f} MB a day: {dollars}"
        " (TRS_TIME_TRAVEL_DAYS)."
    )


def _print_advice(out: "Console", advice: "Advice") -> None:
    from rich.table import Column, Table

    seen = Table(
        Column("history", no_wrap=True),
        "rows",
        "MB",
        "entities",
        "days seen",
        "changes a day",
        "entities a day",
        box=None,
        header_style="bold",
    )
    for c in advice.churns:
        numbers = (
            f"{c.rows:,}",
            f"{c.size_bytes / 1e6:,.1f}",
            f"{c.entities:,}",
            f"{c.days:,}",
            f"{c.changes_per_day:,.1f}",
            "?" if c.changed_per_day is None else f"{c.changed_per_day:.2%}",
        )
        seen.add_row(c.table, *numbers)
    out.print(seen)
    plans = Table("kept", "years", "rows", "GB", "$ storage", "$ queries", box=None, header_style="bold")
    for cost in advice.costs:
        bound = "" if cost.sure else "at most "
        plans.add_row(
            cost.tiers,
            str(cost.years),
            f"{bound}{cost.rows:,}",
            f"{cost.size_bytes / 1e9:,.3f}",
            f"{cost.storage_dollars:,.2f}",
            f"{cost.query_dollars:,.2f}",
        )
    out.print(plans)
    p = advice.prices
    out.print(
        f"Dollars per month, {p.region}, prices of {p.as_of}; {advice.queries_per_month} queries of a whole history."
    )
    rest = advice.other_bytes + 3650 * advice.other_bytes_per_day
    out.print(
        f"All other tables are {advice.other_bytes / 1e9:,.3f} GB and grow by"
        f" {advice.other_bytes_per_day / 1e6:,.1f} MB a day:"
        f" ${rest / 1e9 * p.storage_gb_month:,.2f} a month after 10 years, whatever is kept here."
    )
    out.print(_time_travel(advice))
    out.print(f"Recommended: {advice.tiers}", style="bold")
    out.print(advice.reason)
