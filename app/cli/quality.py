"""`trs lake check`: the declared checks of the lake's data."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from processors.quality.checks import Check
    from processors.quality.run import QualityRun


def register(app: typer.Typer) -> None:
    """Nothing: the command is a part of the group `lake`."""


@lake.command(epilog="Example: trs lake check invoices || trs sql 'FROM quality_results WHERE NOT passed'")
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Checks, or tables whose checks are made. Default: all.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only show what is checked.")] = False,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Keep the outcome in the lake.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check what the lake holds against what is declared of it. Exit code 16: a check failed.

    The shipped checks, and those of TRS_QUALITY_CHECKS (docs/quality.md). Outcomes are kept in `quality_results`.
    """
    from rich.console import Console
    from rich.progress import Progress

    from app.quality import check_lake, chosen_checks, raise_unless_passed
    from app.settings import load_settings

    settings = load_settings()
    checks = chosen_checks(settings, names or ())
    if show:
        _print_checks(checks, as_json=as_json)
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checks", total=len(checks))
        run = check_lake(
            settings, checks, "demand", record=record, report=lambda done: progress.update(task, completed=done)
        )
    if as_json:
        typer.echo(json.dumps(_as_json(run), indent=2))
    else:
        out = Console(highlight=False, soft_wrap=True)
        out.print(_as_table(run))
        for outcome in run.failed:
            out.print(f"{outcome.check.name}: {outcome.detail}", markup=False)
    raise_unless_passed(run)


def _print_checks(checks: "Sequence[Check]", *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps([c.model_dump(mode="json") for c in checks], indent=2))
        return
    table = Table("check", "table", "says", "holds folds", box=None, header_style="bold")
    for c in checks:
        held = "" if c.hold_above_percent is None else f"above {c.hold_above_percent:g} %"
        table.add_row(c.name, c.table, c.says, held)
    Console(highlight=False).print(table)


def _as_json(run: "QualityRun") -> object:
    return {
        "run_id": run.run_id,
        "at": run.at.isoformat(),
        "passed": not run.failed,
        "checks": [
            {
                "name": o.check.name,
                "table": o.check.table,
                "passed": o.passed,
                "rows": o.rows,
                "failures": o.failures,
                "holds_fold": o.holds_fold,
                "detail": o.detail,
            }
            for o in run.outcomes
        ],
    }


def _as_table(run: "QualityRun") -> "Table":
    from rich.table import Table

    table = Table("check", "rows", "failures", "", box=None, header_style="bold")
    for o in run.outcomes:
        verdict = "ok" if o.passed else "[red]FAILED[/red]"
        held = ", folds wait" if o.holds_fold else ""
        table.add_row(o.check.name, f"{o.rows:,}", f"{o.failures:,}" if o.failures else "", verdict + held)
    return table
