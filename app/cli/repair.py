"""`trs lake backup | restore | prepare | compare | rewind`: copies, new lakes beside the present one, reading again."""

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.upkeep import lake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.backup import Backup, Watcher

_JSON = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


def register(app: typer.Typer) -> None:
    """Nothing: the commands are a part of the group `lake`."""


@lake.command(epilog="Example: trs lake backup s3://trs-backups/2026-05")
def backup(
    to: Annotated[
        str, typer.Argument(metavar="PLACE", help="A folder or s3://BUCKET/PREFIX for backups of this lake.")
    ],
    monthly: Annotated[
        bool, typer.Option("--monthly", help="In a folder of PLACE for the present month, as 2026-05 (UTC).")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Copy the whole lake, as it is now, while workers go on.

    The tables' versions are noted first, so that together they are one state; then the files that the place has not are
    copied. Earlier backups at the same place stay as they are. Killed, or told that upkeep removed a file: call again.
    The history of features is copied, for it is rows; older versions of tables are not. A backup holds personal data:
    guard it alike, and delete the place when it is old. docs/runbooks/backup-restore.md has the steps.
    """
    from datetime import UTC, datetime

    from app.backup import backup as run
    from app.backup import place_of_month
    from app.settings import load_settings

    settings = load_settings()
    place = place_of_month(to, datetime.now(UTC)) if monthly else to
    with _watched() as watcher:
        made = run(settings, place, watcher=watcher)
    _tell(made, as_json, f"restore: TRS_LAKE=NEW_PLACE trs lake restore {place}")


@lake.command(epilog="Example: TRS_LAKE=s3://trs/lake-2 trs lake restore s3://trs-backups/2026-05")
def restore(
    origin: Annotated[str, typer.Argument(metavar="PLACE", help="Where `trs lake backup` put it.")],
    at: Annotated[
        str | None, typer.Option(help="The newest backup made at or before this time: ISO-8601, else UTC.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Copy a backup to TRS_LAKE, where there is no lake yet, and make it ready for workers.

    Workers that are started on it read on from Kafka where the backup stood; if Kafka does not hold that any more, they
    end with exit code 9 and say so. Erasures since the backup must be made again. docs/runbooks/backup-restore.md has
    the steps.
    """
    from datetime import UTC, datetime

    from app.backup import restore as run
    from app.settings import load_settings
    from processors.features.as_of import parse_time

    settings = load_settings()
    time = None if at is None else parse_time(at, now=datetime.now(UTC))
    with _watched() as watcher:
        made = run(settings, origin, at=time, watcher=watcher)
    _tell(
        made,
        as_json,
        "next: `trs doctor`, workers with this TRS_LAKE, and `trs lake verify` once they rest; then `trs lake forget`"
        " for every account that was erased since the backup",
    )


@lake.command(epilog="Example: trs lake prepare s3://trs/lake-2")
def prepare(
    place: Annotated[str, typer.Argument(help="A folder or s3://BUCKET/PREFIX without a lake.")],
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of its topics. Default: as those of the present lake.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Make an empty lake beside the one of TRS_LAKE, which workers of another consumer group then fill.

    It knows the truncates of the present one, and its bootstrap runs come after those. Another number of partitions
    needs topics of another TRS_TOPIC_PREFIX. docs/runbooks/rebuild-lake.md and grow-partitions.md have the steps.
    """
    from app.beside import prepare as run
    from app.settings import load_settings

    settings = load_settings()
    made = run(settings, place, partitions=partitions or settings.partitions)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=2))
        return
    other = "" if made.partitions == settings.partitions else f" TRS_PARTITIONS={made.partitions} TRS_TOPIC_PREFIX=…"
    typer.echo(f"{made.lake}: an empty lake for topics of {made.partitions} partitions")
    typer.echo(f"fill it: TRS_LAKE={made.lake} TRS_GROUP={settings.group}-2{other} trs worker")


@lake.command(epilog="Example: trs lake compare s3://trs/lake-2")
def compare(
    other: Annotated[str, typer.Argument(help="The other lake: a folder or s3://BUCKET/PREFIX.")],
    as_json: _JSON = False,
) -> None:
    """Compare the current rows of the lake of TRS_LAKE with those of another one: exit code 15 where they differ.

    Rows of accounts (without personal data), skus, invoices, lines with their prices, and feature sets. Times at which
    a lake came to a row are left out. Both should be at rest; the rows of a view of one lake are held in memory.
    """
    from rich.console import Console
    from rich.table import Table

    from app.beside import compare_lakes
    from app.settings import load_settings
    from processors.errors import DifferencesError

    found = compare_lakes(load_settings(), other)
    if as_json:
        typer.echo(json.dumps([asdict(v) | {"equal": v.equal} for v in found], indent=2))
    else:
        table = Table("view", "rows here", "rows there", "only here", "only there", box=None, header_style="bold")
        for v in found:
            table.add_row(v.view, *(str(n) for n in (v.here, v.there, v.only_here, v.only_there)))
        Console(highlight=False).print(table)
    different = [v.view for v in found if not v.equal]
    if different:
        raise DifferencesError(
            f"the lakes differ in {', '.join(different)}", hint="docs/runbooks/rebuild-lake.md says why they may"
        )


@lake.command(epilog="Example: trs lake rewind invoices --to-time 2024-05-01T18:00Z --dry-run")
def rewind(
    topic: Annotated[str, typer.Argument(help="The topic, with or without TRS_TOPIC_PREFIX.")],
    to_offset: Annotated[int | None, typer.Option(min=0, help="Read on at this offset.")] = None,
    to_time: Annotated[
        str | None,
        typer.Option(help="Read on at the first record of this time or later: ISO-8601, else UTC."),
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(min=0, help="This partition alone; may be repeated. Default: all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False,
) -> None:
    """Let the lake read a part of a topic again. It changes no row that is right, however often it is done.

    Only back, to what Kafka still holds. Workers that run are refused at their next commit (exit code 8), and read from
    there once their supervisor has started them again. docs/runbooks/rewind.md.
    """
    from datetime import UTC, datetime

    from app.rewind import rewind_topic
    from app.settings import load_settings
    from processors.features.as_of import parse_time

    time = None if to_time is None else parse_time(to_time, now=datetime.now(UTC))
    done = rewind_topic(
        load_settings(), topic, partitions=partition or (), offset=to_offset, time=time, dry_run=dry_run
    )
    for one in done:
        typer.echo(f"{one.topic}-{one.partition}: {one.before} → {one.now}, {one.before - one.now} records again")
    if not done:
        typer.echo("nothing to do: the lake stands there, or before it")
    elif dry_run:
        typer.echo("nothing was done (--dry-run)")


@contextmanager
def _watched() -> "Iterator[Watcher]":
    """One watcher that draws a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("looking", total=None)
        yield lambda table, done, total: bars.update(task, description=f"copying {table}", completed=done, total=total)


def _tell(made: "Backup", as_json: bool, then: str) -> None:
    from app.printing import plain
    from processors.features.as_of import format_time

    if as_json:
        typer.echo(json.dumps(plain(asdict(made)), indent=2))
        return
    through = (
        "nothing is committed in it"
        if made.complete_through is None
        else f"complete through {format_time(made.complete_through)}"
    )
    typer.echo(
        f"{made.place}: {made.tables} tables, {made.rows:,} rows, {made.files:,} files,"
        f" {made.size_bytes / 1e6:,.1f} MB, {through}"
    )
    typer.echo(f"copied: {made.copied_files:,} files, {made.copied_bytes / 1e6:,.1f} MB; the others were there")
    typer.echo(then)
