"""`trs reconcile`: checks that the lake holds what the source holds."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.source_options import (
    ChunkRowsOption,
    SourceOption,
    TablesOption,
    WaitOption,
    row_bars,
    table_names,
    watcher,
)

if TYPE_CHECKING:
    from rich.table import Table

    from batch_bootstrap.reconcile import Reconciliation


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: trs reconcile && echo equal")(reconcile)


def reconcile(
    source: SourceOption = "mysql",
    tables: TablesOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Send the corrections, as a diff does.")] = False,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds that a connector may need to bring what it has not sent yet.")
    ] = 30.0,
    chunk_rows: ChunkRowsOption = None,
    wait: WaitOption = 300.0,
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="With --repair: believe a table without any row.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check that the lake holds what the source holds. Exit code 15: rows differ and were not repaired.

    Compares as `trs bootstrap diff` does. What differs is looked at again once the lake has passed the place of the
    first look: rows on their way are no differences. The outcome is kept in the lake's table `reconciliation`.
    """
    from rich.console import Console

    from app.bootstrap import reconcile as run
    from app.settings import load_settings
    from app.signals import stop_requests
    from batch_bootstrap.source import DEFAULT_CHUNK_ROWS

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    settings = load_settings()
    with stop_requests() as stop, row_bars(console) as report:
        check = run(
            settings,
            source,
            tables=table_names(tables),
            chunk_rows=chunk_rows or DEFAULT_CHUNK_ROWS,
            wait_s=wait,
            settle_s=settle,
            repair=repair,
            accept_empty=accept_empty,
            watcher=watcher(console, stop, report),
        )
    for notice in check.notices:
        console.print(notice, style="yellow", markup=False)
    if as_json:
        typer.echo(json.dumps(as_document(check), indent=2))
    else:
        Console(soft_wrap=True).print(as_table(check))
        for name, keys in check.examples.items():
            console.print(f"{name}: {'; '.join(keys)}", markup=False)
    if not check.finished:
        console.print("stopped; nothing was recorded", style="yellow", markup=False)
        raise typer.Exit(128 + (stop.signal or 2))
    check.raise_unless_equal()


def as_document(check: "Reconciliation") -> dict[str, Any]:
    """The outcome as JSON values."""
    counts = ("missing", "changed", "surplus", "in_flight", "rejects", "repaired")
    names = ("compared", "chunks", "chunks_differing", *counts)
    return {
        "check_id": check.check_id,
        "at": check.at.isoformat(),
        "source": check.source,
        "finished": check.finished,
        "differing": check.differing,
        "repaired": check.repaired,
        "tables": {
            name: {n: getattr(t, n) for n in names}
            | {"position": None if t.position is None else {"file": t.position.file, "pos": t.position.pos}}
            | {"seconds": round(t.seconds, 3)}
            for name, t in check.tables.items()
        },
        "seconds": round(check.seconds, 3),
        "notices": check.notices,
    }


def as_table(check: "Reconciliation") -> "Table":
    """The outcome as a person wants to read it."""
    from rich.table import Table

    equal = "source and lake are equal" if check.differing == 0 else f"{check.differing:,} rows differ"
    repaired = f", {check.repaired:,} corrections sent" if check.repaired else ""
    table = Table(title=f"lake and {check.source}", caption=f"{equal}{repaired}; {check.seconds:.1f} s")
    table.add_column("table")
    names = ("compared", "missing", "changed", "surplus", "in_flight", "rejects")
    for name in (*names, "seconds"):
        table.add_column(name.replace("_", " "), justify="right")
    for name, t in check.tables.items():
        table.add_row(name, *(f"{getattr(t, n):,}" for n in names), f"{t.seconds:.1f}")
    return table
