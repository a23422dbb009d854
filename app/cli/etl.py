"""`trs etl`: features in batch, without Kafka."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.source_options import DateFormatOption, date_formats

if TYPE_CHECKING:
    from app.etl import EtlReport


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: trs etl --source csv:extracts --feature-set invoice_features --out features.csv")(etl)


def etl(
    source: Annotated[
        str,
        typer.Option(
            help="csv:FOLDER, mysql://USER:PASSWORD@HOST:PORT/DATABASE, mysql (the database of TRS_DATABASE),"
            " s3-export:s3://BUCKET/PREFIX/EXPORT, or lake."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .csv or .parquet. Replaced whole, at the end.")],
    feature_set: Annotated[str, typer.Option(help="See `trs features list`.")] = "invoice_features",
    date_format: DateFormatOption = None,
    price_at: Annotated[
        Literal["creation", "current"] | None,
        typer.Option(help="Which price a line is charged, with --source lake. Default: TRS_PRICE_AT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Compute a feature set over everything, from a bare source or from the lake's logs, into a CSV or Parquet file.

    Rows that do not fit their table go to OUT.rejects.csv; the rest goes on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from app.etl import LAKE, run_etl
    from app.lake_session import named_feature_set
    from app.settings import load_settings
    from processors.errors import UsageError

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    settings = load_settings()
    features = named_feature_set(feature_set)
    formats = date_formats(date_format or [])
    if source == LAKE and formats:
        raise UsageError("--date-format is for CSV extracts")
    if source != LAKE and price_at == "creation":
        raise UsageError(
            "a bare source knows only today's prices", hint="leave out --price-at creation, or use --source lake"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def progress(table: str, read: int, estimate: int | None) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=estimate)
            bars.update(tasks[table], completed=read)

        report = run_etl(
            settings,
            source,
            features,
            out,
            price_at=price_at or settings.price_at,
            date_formats=formats,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2))
    for notice in report.notices:
        console.print(notice, style="yellow", markup=False)
    for kind, count in report.findings.items():
        if count:
            console.print(f"{count} {kind} were noticed and used", style="yellow")
    if report.rejects_file is not None:
        console.print(f"{report.rejected} rows rejected, see {report.rejects_file}", style="yellow", markup=False)
    prices = "today's prices" if report.price_at == "current" else "prices at creation"
    console.print(
        f"{report.rows} rows of {report.feature_set} as of {report.as_of:%Y-%m-%dT%H:%M:%SZ}"
        f" ({prices})"
        f" in {report.seconds:.1f} s: {report.out}",
        markup=False,
    )


def _as_json(report: "EtlReport") -> dict[str, object]:
    return {
        "feature_set": report.feature_set,
        "out": str(report.out),
        "rows": report.rows,
        "as_of": report.as_of.isoformat().replace("+00:00", "Z"),
        "price_at": report.price_at,
        "seconds": round(report.seconds, 3),
        "read": report.read,
        "rejected": report.rejected,
        "rejects_file": None if report.rejects_file is None else str(report.rejects_file),
        **report.findings,
        "notices": report.notices,
    }
