"""`trs lake maintain` and `trs lake describe`: upkeep for a scheduler, and what the tables look like."""

import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from app.maintain import Action, Done, Round

_MB = 1_000_000


def register(app: typer.Typer) -> None:
    """Adds the commands to the group `lake`."""
    lake.command(epilog="Example: trs lake maintain --only compact,vacuum --dry-run")(maintain)


def maintain(
    only: Annotated[
        str, typer.Option(help="Do these alone, comma-separated: fold, compact, checkpoint, vacuum.")
    ] = "fold,compact,checkpoint,vacuum",
    budget_mb: Annotated[
        int | None, typer.Option(min=1, help="MB of files rewritten at most, folds left out. Default: no limit.")
    ] = None,
    budget_s: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which nothing new is begun. Default: no limit.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Let all other programs go first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is due, do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Do all upkeep of the lake's tables that is due, once: for a scheduler, where workers have no budget for it.

    May run beside workers and at any number of places at once. Exit code 0: done, or nothing was due, or the budget is
    used up (--json tells: "left"). 6: another one runs on this machine, or a table failed in passing. Another code: the
    first table that failed, as for every command; all others were looked after.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from app.maintain import Budget
    from app.maintain import maintain as run
    from app.settings import load_settings

    actions = _actions(only)
    if background:
        os.nice(19)
    budget = Budget(
        float("inf") if budget_mb is None else budget_mb * _MB,
        float("inf") if budget_s is None else time.monotonic() + budget_s,
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("", total=None)
        outcome = run(
            load_settings(),
            only=actions,
            budget=budget,
            dry_run=dry_run,
            watcher=lambda what, done, of: bars.update(task, description=what, completed=done, total=of),
        )
    if as_json:
        typer.echo(json.dumps(_as_json(outcome), indent=2))
    else:
        _print(outcome, dry_run=dry_run)
    if outcome.worst is not None:
        raise outcome.worst


def _actions(only: str) -> "tuple[Action, ...]":
    from app.maintain import ACTIONS
    from processors.errors import UsageError

    wanted = [name.strip() for name in only.split(",") if name.strip()]
    wrong = [name for name in wanted if name not in ACTIONS]
    if wrong or not wanted:
        raise UsageError(f"--only: {', '.join(wrong) or 'nothing'} is not of {', '.join(ACTIONS)}")
    return tuple(action for action in ACTIONS if action in wanted)


def _as_json(outcome: "Round") -> dict[str, object]:
    from app.printing import plain

    done = [{**asdict(d), "seconds": round(d.seconds, 3)} for d in outcome.done]
    return {"done": plain(done), "left": outcome.left}


def _print(outcome: "Round", *, dry_run: bool) -> None:
    from app.printing import message

    clean = [d for d in outcome.done if d.action == "vacuum" and d.files_before == 0]
    for done in outcome.done:
        if done in clean:
            continue
        if done.failure is None:
            typer.echo(_line(done) + (", due" if dry_run else f", {done.seconds:.1f} s"))
        else:
            message(f"{done.action} {done.table_name} failed: {done.failure}", warning=True)
    if clean:
        typer.echo(f"vacuum of {len(clean)} tables: no file to delete")
    if not outcome.done:
        typer.echo("nothing is due")
    if outcome.left:
        message("the budget is used up: more is due")


def _line(done: "Done") -> str:
    told = f"{done.action} {done.table_name}"
    if done.action == "vacuum":
        return f"{told}: {done.files_before} files deleted"
    if done.files_before is None:
        return told
    sizes = "" if done.bytes_before is None else f", {done.bytes_before / _MB:.1f} MB"
    return f"{told}: {done.files_before} files become {done.files_after}{sizes}"
