"""`trs bootstrap diff`: sends what differs between a source and the lake, once or again and again."""

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.source_options import (
    ChunkRowsOption,
    DateFormatOption,
    SourceOption,
    TablesOption,
    WaitOption,
    date_formats,
    row_bars,
    table_names,
    watcher,
)

if TYPE_CHECKING:
    from rich.table import Table

    from batch_bootstrap.diff import DiffSummary

_NAP_S = 0.2


def diff(
    source: SourceOption = "mysql",
    tables: TablesOption = None,
    every: Annotated[
        str | None, typer.Option(help="Again and again, as 90s, 15m or 1h from start to start.", metavar="TIME")
    ] = None,
    date_format: DateFormatOption = None,
    chunk_rows: ChunkRowsOption = None,
    wait: WaitOption = 300.0,
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="Believe a table without any row: delete all of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, one line per run.")] = False,
) -> None:
    """Send what differs between a source and the lake: created, updated and deleted rows.

    A database makes checksums of ranges of rows; only rows of ranges that differ are read. The lake must have read the
    topics first, so a worker must run. Rows that changed later than they were compared are left alone. A run that was
    interrupted needs nothing: the next one finds what is left.
    """
    from rich.console import Console

    from app.bootstrap import diff as run
    from app.settings import load_settings
    from app.signals import stop_requests
    from batch_bootstrap.source import DEFAULT_CHUNK_ROWS
    from processors.errors import RetryableError, UnavailableError

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    settings = load_settings()
    interval_s = None if every is None else interval(every)
    with stop_requests() as stop:

        def once() -> bool:
            """One run; False when it was stopped."""
            with row_bars(console) as report:
                summary = run(
                    settings,
                    source,
                    tables=table_names(tables),
                    date_formats=date_formats(date_format or []),
                    chunk_rows=chunk_rows or DEFAULT_CHUNK_ROWS,
                    wait_s=wait,
                    accept_empty=accept_empty,
                    watcher=watcher(console, stop, report),
                )
            for notice in summary.notices:
                console.print(notice, style="yellow", markup=False)
            if as_json:
                typer.echo(json.dumps(as_document(summary), indent=None if every else 2))
            else:
                Console(soft_wrap=True).print(as_table(summary))
            return summary.finished

        if interval_s is None:
            finished = once()
        else:
            finished = _again_and_again(
                once,
                interval_s,
                stopped=lambda: stop.signal is not None,
                passing=(RetryableError, UnavailableError),
                tell=lambda line: console.print(line, style="yellow", markup=False),
            )
    if not finished:
        console.print("stopped; the next run finds what is left", style="yellow", markup=False)
        raise typer.Exit(128 + (stop.signal or 2))


def _again_and_again(
    once: Callable[[], bool],
    interval_s: float,
    *,
    stopped: Callable[[], bool],
    passing: tuple[type[Exception], ...],
    tell: Callable[[str], None],
) -> bool:
    """Runs until it is stopped; False when that was in the middle of a run. Passing faults are told and tried again."""
    while True:
        due = time.monotonic() + interval_s
        try:
            if not once():
                return False
        except passing as fault:
            tell(f"{fault}; the next run is in {max(0.0, due - time.monotonic()):.0f} s")
        while time.monotonic() < due:
            if stopped():
                return True
            time.sleep(_NAP_S)


def interval(text: str) -> float:
    """The time of --every in seconds. Raises UsageError."""
    from app.durations import PATTERN, seconds
    from processors.errors import UsageError

    if not re.match(PATTERN, text):
        raise UsageError(f"--every {text}: write a number and its unit", hint="as 90s, 15m or 1h")
    return seconds(text)


def as_document(summary: "DiffSummary") -> dict[str, Any]:
    """The summary as JSON values."""
    names = (
        "compared",
        "read",
        "created",
        "updated",
        "deleted",
        "newer",
        "rejects",
        "chunks",
        "chunks_read",
        "bytes_read",
    )
    return {
        "run": summary.run,
        "source": summary.source,
        "finished": summary.finished,
        "tables": {
            name: {n: getattr(t, n) for n in names} | {"seconds": round(t.seconds, 3)}
            for name, t in summary.tables.items()
        },
        **{n: summary.total(n) for n in names},
        "changed": summary.total("changed"),
        "emitted": summary.emitted,
        "waited_s": round(summary.waited_s, 3),
        "seconds": round(summary.seconds, 3),
        "notices": summary.notices,
    }


def as_table(summary: "DiffSummary") -> "Table":
    """The summary as a person wants to read it."""
    from rich.table import Table

    table = Table(
        title=f"run {summary.run} of {summary.source}",
        caption=f"{summary.total('compared'):,} rows compared, {summary.total('read'):,} read"
        f" ({summary.total('bytes_read') / 1e6:,.1f} MB), {summary.emitted:,} events sent in {summary.seconds:.1f} s",
    )
    table.add_column("table")
    names = ("compared", "created", "updated", "deleted", "newer", "rejects", "read")
    for name in (*names, "chunks read", "seconds"):
        table.add_column(name, justify="right")
    for name, t in summary.tables.items():
        numbers = [f"{getattr(t, n):,}" for n in names]
        table.add_row(name, *numbers, f"{t.chunks_read:,} of {t.chunks:,}", f"{t.seconds:.1f}")
    return table
