"""`trs cutover`: switches change data capture on while source and worker go on."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.source_options import ChunkRowsOption, row_bars, watcher

if TYPE_CHECKING:
    from app.cutover_state import CutoverState


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: trs cutover --status && trs cutover --with diff")(cutover)


def cutover(
    method: Annotated[
        Literal["snapshot", "diff"] | None,
        typer.Option(
            "--with",
            help="How the rows are brought: snapshot sends all, diff compares with the lake and sends what differs."
            "  [default: as begun, at first diff where the lake holds rows, else snapshot]",
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", "--plan", help="Only show the steps and what was done; nothing is changed.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Begin anew, also after one that was finished.")] = False,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for a connector or a lake in which nothing moves.")
    ] = 300.0,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds in which the connector should note that it has passed a place.")
    ] = 120.0,
    chunk_rows: ChunkRowsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Switch change data capture on for TRS_DATABASE: check, start the connector, bring the rows, wait, compare.

    A worker has to run, and may go on running; so may the source. The command may be interrupted anywhere: given again,
    it goes on. The report is kept in TRS_HOME/cutover. Exit code 15: source and lake differ.
    """
    from rich.console import Console

    from app.cutover import Options, run_cutover, state_file
    from app.settings import load_settings
    from app.signals import stop_requests
    from batch_bootstrap.source import DEFAULT_CHUNK_ROWS

    settings = load_settings()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if status:
        saved = state_file(settings).load(lambda line: console.print(line, style="yellow", markup=False))
        _show(saved, as_json=as_json)
        return
    options = Options(method, chunk_rows or DEFAULT_CHUNK_ROWS, wait_s=wait, settle_s=settle, again=again)
    with stop_requests() as stop, row_bars(console) as report:
        state = run_cutover(
            settings,
            options,
            watcher(console, stop, report),
        )
    _show(state, as_json=as_json)
    if state.finished_at is None:
        console.print("stopped; it goes on when the same command is given again", style="yellow", markup=False)
        raise typer.Exit(128 + (stop.signal or 2))


def _show(state: "CutoverState | None", *, as_json: bool) -> None:
    """The steps with what was done of them."""
    from rich.markup import escape
    from rich.table import Table

    from app.cutover import STEPS
    from app.printing import wide_console

    if as_json:
        typer.echo(json.dumps(None if state is None else asdict(state), indent=2))
        return
    done = {} if state is None else state.steps
    end = "not begun" if state is None else f"finished at {state.finished_at}" if state.finished_at else "not finished"
    table = Table("step", "what is the case after it", "done at", "seconds", "", caption=end)
    for name, meaning in STEPS.items():
        step = done.get(name)
        facts = {} if step is None else {k: v for k, v in step.facts.items() if k != "notices"}
        told = ", ".join(f"{k} {_told(v)}" for k, v in facts.items())
        table.add_row(
            name, meaning, *(("", "") if step is None else (step.done_at, f"{step.seconds:.1f}")), escape(told)
        )
    wide_console().print(table)


def _told(value: object) -> str:
    if isinstance(value, dict) and set(value) == {"file", "pos"}:
        return f"{value['file']}:{value['pos']}"
    return json.dumps(value)
