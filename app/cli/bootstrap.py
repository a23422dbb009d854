"""`trs bootstrap`: sends a source's rows to Kafka as the row events that change data capture would send."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.source_options import (
    ChunkRowsOption,
    DateFormatOption,
    SourceOption,
    TablesOption,
    date_formats,
    row_bars,
    table_names,
)

if TYPE_CHECKING:
    from rich.table import Table

    from batch_bootstrap.snapshot import SnapshotSummary


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    from app.cli.diff import diff

    group = typer.Typer(
        name="bootstrap",
        help="Send a source's rows to Kafka, as long as there is no CDC.",
        epilog="Example: trs bootstrap snapshot --source csv:extracts",
        no_args_is_help=True,
    )
    group.command(epilog="Example: trs bootstrap snapshot --source csv:extracts")(snapshot)
    group.command(epilog="Example: trs bootstrap diff --every 15m")(diff)
    group.command(epilog="Example: trs bootstrap backfill --from 2018-01")(backfill)
    app.add_typer(group)


def snapshot(
    source: SourceOption = "mysql",
    tables: TablesOption = None,
    date_format: DateFormatOption = None,
    chunk_rows: ChunkRowsOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Abandon an unfinished run and begin a new one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Send every row of a source to its topic (op r), once everything was checked.

    The topics are made. Rows that do not fit their table go to the dead letters. A run that was killed goes on where it
    stopped when the same command is given again.
    """
    from rich.console import Console

    from app.bootstrap import snapshot as run
    from app.settings import load_settings
    from app.signals import stop_requests
    from batch_bootstrap.source import DEFAULT_CHUNK_ROWS

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    settings = load_settings()
    with stop_requests() as stop, row_bars(console) as report:
        summary = run(
            settings,
            source,
            tables=table_names(tables),
            date_formats=date_formats(date_format or []),
            chunk_rows=chunk_rows or DEFAULT_CHUNK_ROWS,
            restart=restart,
            stopped=lambda: stop.signal is not None,
            report=report,
            announce=lambda line: console.print(line, style="yellow", markup=False),
        )
    for notice in summary.notices:
        console.print(notice, style="yellow", markup=False)
    for finding in summary.findings:
        where = f"{finding.file}:{finding.line}" if finding.file else finding.table
        console.print(f"{finding.kind}, sent: {where}: {finding.detail}", style="yellow", markup=False)
    if as_json:
        typer.echo(json.dumps(as_document(summary), indent=2))
    else:
        Console(soft_wrap=True).print(as_table(summary))
    if not summary.finished:
        console.print(
            f"stopped; run {summary.run} goes on when the same command is given again", style="yellow", markup=False
        )
        raise typer.Exit(128 + (stop.signal or 2))


def backfill(
    first: Annotated[
        str | None, typer.Option("--from", help="First month.  [default: that of the first issue]", metavar="YYYY-MM")
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", help="Last month.  [default: the one before the lake's first row]", metavar="YYYY-MM"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Reconstruct features at month ends before the lake, from the dates in its rows.

    An invoice exists from its issue, a payment from its day. Old prices, deleted rows and later edits cannot be known.
    `trs features as-of TIME --axis valid` reads it; a run replaces the one before. Kafka and the source are not needed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.backfill import backfill as run
    from app.settings import load_settings
    from processors.features.reconstruct import parse_month

    begin = None if first is None else parse_month(first)
    end = None if last is None else parse_month(last)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("months", total=None)
        summary = run(
            load_settings(),
            first=begin,
            last=end,
            progress=lambda done, months: bar.update(task, completed=done, total=months),
        )
    document = summary.as_document()
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    for name, counts in document["feature_sets"].items():
        typer.echo(f"{name}: {counts['rows']} rows of {counts['entities']} entities")
    typer.echo(
        f"{summary.months} month ends, {summary.first} to {summary.last}, in {summary.seconds:.1f} s; not known: "
        + ", ".join(document["unknowns"])
    )


def as_document(summary: "SnapshotSummary") -> dict[str, Any]:
    """The summary as JSON values."""
    first, last = summary.progress.first_position, summary.progress.last_position
    return {
        "run": summary.run,
        "source": summary.source,
        "finished": summary.finished,
        "resumed": summary.resumed,
        "tables": {
            name: {
                "rows": t.rows,
                "rejects": t.rejects,
                "orphans": t.orphans,
                "returns": t.returns,
                "chunks": t.chunks,
                "seconds": round(t.seconds, 3),
            }
            for name, t in summary.progress.tables.items()
        },
        "rows": sum(t.rows for t in summary.progress.tables.values()),
        "sent": summary.sent,
        "seconds": round(summary.seconds, 3),
        "rows_per_s": round(summary.sent / summary.seconds) if summary.seconds else None,
        "first_position": None if first is None else {"file": first.file, "pos": first.pos},
        "last_position": None if last is None else {"file": last.file, "pos": last.pos},
        "topics_made": list(summary.topics_made),
        "notices": summary.notices,
    }


def as_table(summary: "SnapshotSummary") -> "Table":
    """The summary as a person wants to read it."""
    from rich.table import Table

    first, last = summary.progress.first_position, summary.progress.last_position
    place = (
        "no binlog position"
        if first is None or last is None
        else f"from {first.file}:{first.pos} to {last.file}:{last.pos}"
    )
    rate = f"{summary.sent / summary.seconds:,.0f} rows/s" if summary.seconds else ""
    table = Table(
        title=f"run {summary.run} of {summary.source}",
        caption=f"{summary.sent:,} rows sent in {summary.seconds:.1f} s, {rate}; {place}",
    )
    table.add_column("table")
    for name in ("rows", "rejects", "orphans", "returns", "seconds"):
        table.add_column(name, justify="right")
    for name, t in summary.progress.tables.items():
        table.add_row(name, f"{t.rows:,}", f"{t.rejects:,}", f"{t.orphans:,}", f"{t.returns:,}", f"{t.seconds:.1f}")
    return table
