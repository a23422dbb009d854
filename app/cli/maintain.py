"""`trs lake maintain` and `trs lake describe`: upkeep for a scheduler, and what the tables look like."""

import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from app.describe import Descriptions
    from app.maintain import Action, Done, Round

_MB = 1_000_000
_WIDTH = 120
"""Columns that the table of all tables needs; a narrower terminal breaks its lines."""


def register(app: typer.Typer) -> None:
    """Nothing: the commands are a part of the group `lake`."""


@lake.command(epilog="Example: trs lake maintain --only compact,vacuum --dry-run")
def maintain(
    only: Annotated[
        str, typer.Option(help="Do these alone, comma-separated: fold, compact, checkpoint, vacuum, purge.")
    ] = "fold,compact,checkpoint,vacuum,purge",
    budget_mb: Annotated[
        int | None, typer.Option(min=1, help="MB of files rewritten at most, folds left out. Default: no limit.")
    ] = None,
    budget_s: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which nothing new is begun. Default: no limit.")
    ] = None,
    vacuum_now: Annotated[
        bool, typer.Option("--vacuum-now", help="Vacuum although the last one was less than a day ago.")
    ] = False,
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
            vacuum_now=vacuum_now,
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


@lake.command(epilog="Example: trs lake describe invoice_log --json")
def describe(
    table: Annotated[str | None, typer.Argument(help="One table, with its columns. Default: all tables.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every fact.")] = False,
) -> None:
    """Show per table rows, files and their sizes, versions that can be read, and the last upkeep.

    By Delta's log: no data file is opened. Sizes of files are the median and the 95th percentile; "since" is the
    oldest version that can still be read; "to fold" are rows that a log's folded table lacks; "last commit" leaves
    upkeep's out.
    """
    from app.describe import describe as look
    from app.describe import known_table
    from app.printing import plain
    from app.settings import load_settings
    from processors.lake_tables import LAKE_TABLES

    names = tuple(LAKE_TABLES) if table is None else (known_table(table),)
    found = look(load_settings(), names)
    if as_json:
        typer.echo(json.dumps(plain(asdict(found)), indent=2))
    elif table is None:
        _print_all(found)
    else:
        _print_one(found)


def _print_all(found: "Descriptions") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _WIDTH)
    shown = Table(box=None, header_style="bold")
    for heading in ("table", "rows", "files", "MB", "median", "p95", "version", "since", "to fold", "last commit"):
        shown.add_column(heading, justify="left" if heading == "table" else "right", no_wrap=True)
    for each in found.tables:
        facts = each.facts
        shown.add_row(
            facts.name,
            f"{facts.rows:,}",
            f"{facts.files:,}",
            f"{facts.size_bytes / _MB:,.1f}",
            *(("", "") if facts.sizes is None else (_size(facts.sizes.median), _size(facts.sizes.p95))),
            str(facts.version),
            str(facts.oldest_version),
            "" if each.fold_debt is None else f"{each.fold_debt:,}",
            _ago(facts.last_commit_at, found.read_at),
        )
    console.print(shown)
    _print_end(console, found)


def _print_one(found: "Descriptions") -> None:
    from rich.console import Console
    from rich.table import Table

    from processors.lake_tables import LAKE_TABLES

    (each,), console = found.tables, Console(highlight=False, soft_wrap=True)
    facts, table = each.facts, LAKE_TABLES[each.facts.name]
    sizes = facts.sizes
    shown = {
        "rows": f"{facts.rows:,}",
        "files": f"{facts.files:,} of {facts.size_bytes / _MB:,.1f} MB",
        "sizes of files": "-"
        if sizes is None
        else ", ".join(
            f"{name} {_size(size)}"
            for name, size in (
                ("least", sizes.least),
                ("median", sizes.median),
                ("p95", sizes.p95),
                ("greatest", sizes.greatest),
            )
        ),
        "newest version": str(facts.version),
        "oldest readable": f"{facts.oldest_version}, {_ago(facts.oldest_at, found.read_at)}",
        "last checkpoint": "-" if facts.last_checkpoint is None else f"version {facts.last_checkpoint}",
        "last commit": _ago(facts.last_commit_at, found.read_at),
        "rows to fold": "-" if each.fold_debt is None else f"{each.fold_debt:,}",
        "last fold": _ago(each.last_fold, found.read_at),
        "last compaction": _ago(each.last_compaction, found.read_at),
        "last vacuum": _ago(each.last_vacuum, found.read_at),
    }
    console.print(f"{table.name}: {table.doc}", style="bold", markup=False)
    facts_table = Table(box=None, show_header=False)
    for name, value in shown.items():
        facts_table.add_row(name, value)
    console.print(facts_table)
    columns = Table("column", "type", "meaning", box=None, header_style="bold")
    for field in table.schema:
        doc = (field.metadata or {}).get(b"comment", b"").decode()
        kind = "list of structs" if str(field.type).startswith("list<") and "struct" in str(field.type) else field.type
        columns.add_row(field.name, str(kind), doc)
    console.print(columns)
    _print_end(console, found)


def _print_end(console: "Console", found: "Descriptions") -> None:
    from app.printing import message
    from processors.features.as_of import format_time

    through = "nothing is committed" if found.complete_through is None else format_time(found.complete_through)
    console.print(f"as of {format_time(found.read_at)}, complete through: {through}", markup=False)
    for each in found.tables:
        if each.failure is not None:
            message(f"upkeep of {each.facts.name} failed: {each.failure}", warning=True)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:,.0f} kB" if size_bytes < _MB else f"{size_bytes / _MB:,.1f} MB"


def _ago(at: "datetime | None", now: "datetime") -> str:
    if at is None:
        return "-"
    seconds = max(0.0, (now - at).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
