"""`trs capacity`: what an installation of a given size needs, and which limit comes first."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from processors.capacity import Plan


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        epilog="Example: trs capacity --lines 1000000000 --changes-per-second 1000 --memory-mb 30320 --cores 8"
    )(capacity)


def capacity(
    lines: Annotated[int, typer.Option(min=1, help="Invoice lines of the source.")],
    changes_per_second: Annotated[float, typer.Option(min=0.0, help="Row changes per second, of all tables.")] = 1.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: as few as fit.")] = None,
    interval_s: Annotated[
        float | None, typer.Option(min=1.0, max=3600.0, help="TRS_EPOCH_INTERVAL_S. Default: the shortest that fits.")
    ] = None,
    memory_mb: Annotated[int, typer.Option(min=64, help="TRS_MEMORY_MB: for the state of one worker.")] = 3696,
    cores: Annotated[int, typer.Option(min=1, help="Processors of one worker.")] = 2,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="TRS_PARTITIONS.")] = 64,
    cdc: Annotated[
        bool, typer.Option("--cdc/--diff", help="Changes come by change data capture, or by a diff every 15 minutes.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Reckon what a size needs (memory, requests, files, hours), and which limit comes first; reads nothing.

    From measured constants, whose commands and formulae docs/capacity.md has; `python -m deploy.costs` has the dollars.
    Exit code 1 if a limit is exceeded.
    """
    from rich.console import Console

    from processors.capacity import Plan, limits, planned

    given = Plan(
        lines=lines,
        changes_per_s=changes_per_second,
        workers=workers or 0,
        interval_s=interval_s or 0.0,
        partitions=partitions,
        cores=cores,
        memory_mb=memory_mb,
        cdc=cdc,
    )
    plan = planned(given)
    if as_json:
        typer.echo(json.dumps(_as_json(plan), indent=2))
    else:
        _print(Console(highlight=False, soft_wrap=True), plan)
    if limits(plan)[0].use > 1:
        raise typer.Exit(1)


def _as_json(plan: "Plan") -> object:
    from dataclasses import asdict

    from processors.capacity import limits, quantities

    return {
        "plan": asdict(plan),
        "needs": [asdict(q) for q in quantities(plan)],
        "limits": [{**asdict(limit), "use": round(limit.use, 4)} for limit in limits(plan)],
    }


def _print(out: "Console", plan: "Plan") -> None:
    from rich.table import Column, Table

    from processors.capacity import HEADROOM, limits, quantities

    needs = Table("for", Column("it needs", justify="right"), box=None, header_style="bold")
    for quantity in quantities(plan):
        needs.add_row(quantity.name, str(quantity))
    out.print(needs)
    ends = Table("limit", Column("used", justify="right"), "of", "beyond it", box=None, header_style="bold")
    for limit in limits(plan):
        style = "red" if limit.use > 1 else "yellow" if limit.use > HEADROOM else None
        ends.add_row(limit.name, f"{limit.use:.0%}", f"{limit.allowed:,g} {limit.unit}", limit.advice, style=style)
    out.print(ends)
