"""Options that the commands which read a source share, and what they do with them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.signals import StopRequest
    from batch_bootstrap.diff import Watcher
    from batch_bootstrap.snapshot import Report

SOURCES = (
    "mysql (TRS_DATABASE), mysql://USER:PASSWORD@HOST:PORT/DATABASE, csv:FOLDER,"
    " or s3-export:s3://BUCKET/PREFIX/EXPORT, the export of a snapshot of Aurora"
)
SourceOption = Annotated[str, typer.Option("--source", help=f"{SOURCES}.")]
TablesOption = Annotated[
    str | None, typer.Option("--tables", help="Only these tables, comma-separated.", metavar="A,B")
]
DateFormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--date-format",
        help="Format of a CSV date column, as invoices.date_issued=%d/%m/%Y; may be repeated.",
        metavar="COLUMN=FORMAT",
    ),
]
ChunkRowsOption = Annotated[
    int | None,
    typer.Option("--chunk-rows", min=1, max=1_000_000, help="Rows per chunk and Kafka transaction.  [default: 50000]"),
]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for a lake that reads nothing of what the topics hold.")
]


def table_names(option: str | None) -> list[str] | None:
    """The tables that --tables names; None: all."""
    return None if option is None else [name.strip() for name in option.split(",")]


def watcher(console: Any, stop: "StopRequest", report: "Report") -> "Watcher":
    """Watches a comparison for a person: bars, yellow lines, and the end at a signal."""
    from batch_bootstrap.diff import Watcher

    return Watcher(
        stopped=lambda: stop.signal is not None,
        report=report,
        announce=lambda line: console.print(line, style="yellow", markup=False),
    )


def date_formats(options: list[str]) -> dict[str, str]:
    """`table.column=FORMAT` options as a mapping. Raises UsageError."""
    from processors.errors import UsageError
    from processors.tables import TABLES, Kind

    dates = [f"{t.name}.{c.name}" for t in TABLES for c in t.columns if c.kind is Kind.DATE]
    formats = {}
    for option in options:
        column, equals, value = option.partition("=")
        if not equals or "%" not in value or column not in dates:
            raise UsageError(f"--date-format {option}: write COLUMN=FORMAT", hint=f"columns: {', '.join(dates)}")
        formats[column] = value
    return formats


def row_bars(console: Any) -> Any:
    """A context manager that shows a bar per table and gives the function that moves them."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Rows per second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s", style="dim")

    @contextmanager
    def bars() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            tasks: dict[str, Any] = {}

            def report(table: str, rows: int, estimate: int | None) -> None:
                if table not in tasks:
                    tasks[table] = progress.add_task(table, total=estimate, completed=rows)
                progress.update(tasks[table], completed=rows, total=max(rows, estimate or 0))

            yield report

    return bars()
