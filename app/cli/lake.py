"""`trs sql` and `trs status`: questions to the lake."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from app.status import Status


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog='Example: trs sql "SELECT * FROM invoices WHERE is_late = 1" --format csv')(sql)
    app.command(epilog="Example: trs status --json")(status)


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT in DuckDB's dialect. Without it: the tables and views there are.")
    ] = None,
    form: Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="How to print.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to this .csv or .parquet file.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows of a table shown at most.")] = 100,
    with_personal_data: Annotated[
        bool,
        typer.Option("--with-personal-data", help="Also read dead_letters and accounts_private_changes."),
    ] = False,
) -> None:
    """Ask the lake, read-only. Only the columns and partitions that the query names are read.

    csv and json hold decimals exactly (json: as text); times are UTC. In a .csv file, text that a spreadsheet would
    take for a formula has an apostrophe before it; a .parquet file has everything as it is.
    """
    from app.lake_session import LakeSession
    from app.output import check_target
    from app.printing import message, print_query
    from app.settings import load_settings
    from processors.features.as_of import format_time

    if query is None:
        _print_names()
        return
    if out is not None:
        check_target(out)
    with LakeSession(load_settings()) as session:
        freshness = session.freshness()
        prepared = session.prepare_query(query, with_personal_data=with_personal_data)
        if out is not None:
            rows = session.write(prepared, out)
        else:
            rows = print_query(session.con, prepared, form=form, limit=limit)
        complete = "" if freshness.watermark is None else f", complete through {format_time(freshness.watermark)}"
        message(f"{rows} rows as of {format_time(freshness.read_at)}{complete}" + (f": {out}" if out else ""))


def _print_names() -> None:
    from rich.console import Console
    from rich.table import Table

    from processors.lake_tables import PERSONAL_TABLES
    from processors.views.catalog import VIEWS, documented_names

    table = Table("name", "kind", "holds", box=None, header_style="bold")
    for name, doc in documented_names().items():
        guarded = " Personal data: only with --with-personal-data." if name in PERSONAL_TABLES else ""
        table.add_row(name, "view" if name in VIEWS else "table", doc + guarded)
    Console(highlight=False).print(table)


def status(
    partitions: Annotated[bool, typer.Option("--partitions", help="Show every partition, not only topics.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every partition in it.")] = False,
) -> None:
    """Show how far the lake is: lag per partition, last epochs, freshness, rows, dead letters, alarms.

    Of workers that run here (in this TRS_HOME) it says what they do, and how far one is that loads its state.
    When Kafka does not answer, what the lake knows is shown, and the exit code is 4 (5: it refused the credentials).
    An alarm is what needs a person while workers go on: a table of the source that is not as declared, or a failed
    check that holds back folds. Exit code 1.
    """
    from rich.console import Console

    from app.settings import load_settings
    from app.status import read_status

    report = read_status(load_settings())
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2))
    else:
        _print_status(Console(highlight=False, soft_wrap=True), report, each_partition=partitions)
    if report.kafka_error is not None:
        raise report.kafka_error
    if report.alarms or any(c.holds_fold for c in report.failed_checks):
        raise typer.Exit(1)


def _as_json(report: "Status") -> object:
    from dataclasses import asdict

    from app.printing import plain

    kafka_problem = None if report.kafka_error is None else str(report.kafka_error)
    known = {name: value for name, value in asdict(report).items() if name != "kafka_error"}
    return plain({**known, "kafka_problem": kafka_problem, "lag": report.lag, "freshness_s": report.freshness_s})


def _partition_table(report: "Status", *, each_partition: bool) -> "Table":
    from rich.table import Table

    if each_partition:
        table = Table("topic", "partition", "next", "end", "lag", box=None, header_style="bold")
        for p in report.partitions:
            numbers = ("?" if n is None else str(n) for n in (p.end, p.lag))
            table.add_row(p.topic, str(p.partition), "-" if p.next_offset is None else str(p.next_offset), *numbers)
        return table
    table = Table("topic", "partitions", "behind", "lag", box=None, header_style="bold")
    for topic in dict.fromkeys(p.topic for p in report.partitions):
        lags = [p.lag for p in report.partitions if p.topic == topic]
        known = [n for n in lags if n is not None]
        complete = len(known) == len(lags)
        table.add_row(
            topic,
            str(len(lags)),
            str(sum(n > 0 for n in known)) if complete else "?",
            str(sum(known)) if complete else "?",
        )
    return table


def _print_status(console: "Console", report: "Status", *, each_partition: bool) -> None:
    from rich.table import Table

    from processors.features.as_of import format_time

    console.print(f"{report.lake} as of {format_time(report.read_at)}", style="bold", markup=False)
    if report.watermark is None or report.freshness_s is None:
        console.print("nothing is committed yet: `trs worker` fills the lake", markup=False)
    else:
        console.print(f"complete through {format_time(report.watermark)}, {report.freshness_s:.1f} s ago")
    for worker in report.workers:
        console.print(str(worker), markup=False)
    stages = Table("stage", "buckets", "last epoch", "last commit", "complete through", box=None, header_style="bold")
    for s in report.stages:
        # Whole seconds, rounded down: more does not fit into 80 columns.
        times = (
            "" if t is None else format_time(t.replace(microsecond=0)) for t in (s.last_commit, s.complete_through)
        )
        stages.add_row(s.stage, str(s.buckets), str(s.last_epoch), *times)
    if report.stages:
        console.print(stages)
    if report.partitions:
        console.print(_partition_table(report, each_partition=each_partition))
        console.print(f"lag: {'unknown' if report.lag is None else f'{report.lag} records'}")
    rows = Table("table or view", "rows", box=None, header_style="bold")
    for name, count in (report.views | report.tables).items():
        rows.add_row(name, "-" if count is None else str(count))
    console.print(rows)
    for check in report.reconciled:
        left = check.differing - check.repaired
        found = f"{check.differing} of {check.compared} rows differed" if check.differing else "equal"
        sent = f", {check.repaired} repaired" if check.repaired else ""
        console.print(
            f"{check.table} and {check.source}: {found}{sent}, {format_time(check.checked_at.replace(microsecond=0))}",
            style="yellow" if left else None,
            markup=False,
        )
    for failed in report.failed_checks:
        console.print(
            f"check {failed.name} failed {format_time(failed.at.replace(microsecond=0))}: {failed.detail}"
            + ("; folds wait" if failed.holds_fold else ""),
            style="red" if failed.holds_fold else "yellow",
            markup=False,
        )
    dead = ", ".join(f"{count} {reason}" for reason, count in report.dead_letters.items())
    console.print(f"open dead letters: {dead or 'none'}", style="yellow" if dead else None, markup=False)
    if report.source_problem is not None:
        console.print(f"the source was not looked at: {report.source_problem}", style="yellow", markup=False)
    for alarm in report.alarms:
        console.print(f"alarm: {alarm}", style="red", markup=False)
