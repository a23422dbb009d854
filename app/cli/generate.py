"""`trs generate` makes a synthetic TRS, `trs simulate` keeps one changing."""

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: trs generate --invoices 200000 --seed 7 --to csv:extracts")(generate)
    app.command(epilog="Example: trs simulate --rate 20 --for 30s --emit")(simulate)


def generate(
    to: Annotated[
        str,
        typer.Option(help="csv:FOLDER, mysql://USER:PASSWORD@HOST:PORT/DATABASE, or mysql (TRS_DATABASE)."),
    ],
    invoices: Annotated[int, typer.Option(min=0, help="Number of invoices; each has about 5.5 lines.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 1,
    accounts: Annotated[int | None, typer.Option(min=1, help="Number of accounts.  [default: grows with size]")] = None,
    skus: Annotated[int | None, typer.Option(min=10, help="Number of SKUs.  [default: grows with size]")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the row counts as JSON.")] = False,
) -> None:
    """Make a synthetic TRS of any size: hot accounts, month-end peaks, unpaid, lineless and unpriced invoices."""
    from pathlib import Path

    from rich.console import Console

    from app.cli.source_options import row_bars
    from app.generate import load_database, write_extracts
    from app.settings import load_settings
    from app.wiring import database_ca_file
    from batch_bootstrap.generate import Generated

    folder = to.removeprefix("csv:") if to.startswith("csv:") else None
    url = None if folder is not None else database_url(to, "--to")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with (
        Generated(invoices, seed=seed, accounts=accounts, skus=skus) as data,
        row_bars(console) as report,
    ):
        if folder is not None:
            written = write_extracts(data, Path(folder), replace=replace, report=report)
        else:
            ca_file = database_ca_file(load_settings())
            written = load_database(data, str(url), replace=replace, report=report, ca_file=ca_file)
    if as_json:
        typer.echo(json.dumps(written))
    else:
        typer.echo(", ".join(f"{rows:,} {table}" for table, rows in written.items()))


def simulate(
    source: Annotated[
        str, typer.Option(help="mysql://USER:PASSWORD@HOST:PORT/DATABASE, or mysql (TRS_DATABASE).")
    ] = "mysql",
    rate: Annotated[float, typer.Option(min=0.01, help="Changes per second, each one transaction.")] = 10.0,
    duration: Annotated[
        str | None, typer.Option("--for", help="Stop after so long, as 30s, 5m or 1h.", metavar="TIME")
    ] = None,
    changes: Annotated[int | None, typer.Option(min=1, help="Stop after so many changes.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed on the same data makes the same changes.")] = 1,
    emit: Annotated[
        bool, typer.Option("--emit", help="Send the rows touched to the topics, as CDC would, while there is none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Keep a database changing: invoices issued and paid, lines corrected, accounts and SKUs added, prices changed.

    Goes on until Ctrl-C unless --for or --changes says otherwise.
    """
    from rich.console import Console

    from app.generate import SimulationSummary
    from app.generate import simulate as run
    from app.settings import load_settings
    from app.signals import stop_requests

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    settings, url = load_settings(), database_url(source, "--source")
    seconds = None if duration is None else to_seconds(duration)
    with stop_requests() as stop, console.status("changing") as status:

        def report(summary: SimulationSummary) -> None:
            status.update(f"{summary.changes:,} changes, {summary.emitted:,} row events")

        summary = run(
            settings,
            url,
            rate=rate,
            seed=seed,
            changes=changes,
            seconds=seconds,
            emit=emit,
            stopped=lambda: stop.signal is not None,
            report=report,
        )
    if as_json:
        typer.echo(
            json.dumps({"changes": summary.changes, "emitted": summary.emitted, "seconds": round(summary.seconds, 3)})
        )
    else:
        sent = f", {summary.emitted:,} row events sent" if emit else ""
        typer.echo(f"{summary.changes:,} changes in {summary.seconds:.1f} s{sent}")


def database_url(spec: str, option: str) -> str:
    """The URL that an option names, or the setting's for `mysql`. Raises UsageError."""
    from app.settings import load_settings
    from processors.errors import UsageError

    if spec.startswith("mysql://"):
        return spec
    database = load_settings().database
    if spec != "mysql":
        raise UsageError(f"{option} takes mysql://USER:PASSWORD@HOST:PORT/DATABASE, or mysql", hint="see --help")
    if database is None:
        raise UsageError("no source database is set", hint=f"set TRS_DATABASE, or give {option}")
    return database.get_secret_value()


def to_seconds(duration: str) -> float:
    """`90`, `30s`, `5m`, `1h` as seconds. Raises UsageError."""
    from processors.errors import UsageError

    number, unit = (duration[:-1], duration[-1]) if duration[-1:].isalpha() else (duration, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        raise UsageError(f"--for {duration} is not a time", hint="write 30s, 5m or 1h") from None
    if not seconds > 0:
        raise UsageError(f"--for {duration} is not a time", hint="write 30s, 5m or 1h")
    return seconds
