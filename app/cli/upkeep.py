"""Commands of the group `trs lake`: upkeep of the lake's tables."""

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from app.verify import Verification


lake = typer.Typer(help="Upkeep of the lake's tables.", epilog="Example: trs lake fold", no_args_is_help=True)
"""The group; other modules add commands to it."""


def register(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(lake, name="lake")


@lake.callback()
def group() -> None:
    """Upkeep of the lake's tables."""


@lake.command(epilog="Example: trs lake fold --min-rows 100000")
def fold(
    min_rows: int = typer.Option(1, min=0, help="Leave alone tables with fewer new rows than this."),
    despite_checks: bool = typer.Option(False, "--despite-checks", help="Fold what failed checks hold back, too."),
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
) -> None:
    """Fold the logs: merge what is new into the folded tables, so that queries and recovery read less.

    Exit code 16: failed checks of the data hold back a table.
    """
    from app.quality import FoldGate
    from app.settings import load_settings
    from app.wiring import lake_location, store_watch
    from connectors.delta_lake import DeltaLake
    from connectors.fold import fold_all
    from processors.errors import QualityError
    from processors.fold import all_that_waits
    from processors.state import open_state

    settings = load_settings()
    store = DeltaLake(lake_location(settings))
    con = open_state(spill=settings.home / "spill", memory_mb=settings.memory_mb, threads=settings.threads)
    with closing(con), store_watch(settings):
        store.prepare(con)
        gate = FoldGate(settings, holds=settings.quality_gate and not despite_checks)
        done = fold_all(store, con, settings.partitions, all_that_waits(min_rows), gate)
    if as_json:
        typer.echo(json.dumps([vars(d) for d in done]))
    else:
        for each in done:
            outcome = f"{each.tail_rows} new rows, {each.rows} rows now" if each.committed else "another fold was first"
            typer.echo(f"{each.table}: {outcome if each.held is None else 'held back'}")
        if not done:
            typer.echo("nothing to fold")
    held = [each for each in done if each.held is not None]
    if held:
        raise QualityError(
            f"{held[0].table} is not folded: {held[0].held}", hint="see docs/quality.md, or `--despite-checks`"
        )


@lake.command(epilog="Example: trs worker --until-caught-up && trs lake verify")
def verify(
    price_at: Annotated[
        Literal["creation", "current"] | None,
        typer.Option(help="Which price the workers charge. Default: TRS_PRICE_AT."),
    ] = None,
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
) -> None:
    """Check the lake's promises: no key twice, epochs and offsets in order, derived = computed again from the logs.

    For a lake at rest. Exit code 12: a check failed; 13: something is not derived yet, so some were skipped.
    """
    from app.settings import load_settings
    from app.verify import verify as run

    settings = load_settings()
    report = run(settings, price_at=price_at or settings.price_at)
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2))
    else:
        _print(report)
    report.raise_unless_sound()


def _as_json(report: "Verification") -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(report), "outcomes": [asdict(o) | {"holds": o.holds} for o in report.outcomes]}


def _print(report: "Verification") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from app.printing import message

    table = Table("check", "table", "promise", "rows", "", "verdict", box=None, header_style="bold")
    verdicts = {True: "ok", False: "[red]FAILED[/red]", None: "[yellow]skipped[/yellow]"}
    for o in report.outcomes:
        failures = str(o.failures) if o.failures else ""
        shown = verdicts[o.holds] + ("" if o.example is None else escape(f": {o.example}"))
        table.add_row(o.check, o.table, o.promise, str(o.rows), failures, shown)
    Console(highlight=False, soft_wrap=True).print(table)
    if report.kafka_problem is not None:
        message(f"taken for granted that no document waits in Kafka: {report.kafka_problem}", warning=True)
