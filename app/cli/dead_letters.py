"""`trs dead-letters`: records that were refused, and what is done about them."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.dead_letters import DeadLetters
    from app.settings import Settings
    from processors.open_letters import Selection

group = typer.Typer(
    no_args_is_help=True,
    help="Records that were refused: see, send again, or put aside.",
    epilog="Example: trs dead-letters list",
)

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TOPIC = Annotated[str, typer.Argument(help="The topic, or the name of a table for its topic.")]
_PARTITION = Annotated[int, typer.Argument(min=0, help="The partition.")]
_OFFSET = Annotated[int, typer.Argument(min=0, help="The offset.")]
_ONE_TOPIC = Annotated[str | None, typer.Argument(help="With partition and offset: this letter only.")]
_ONE_PARTITION = Annotated[int | None, typer.Argument(min=0)]
_ONE_OFFSET = Annotated[int | None, typer.Argument(min=0)]
_REASONS = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only of this reason (`trs dead-letters reasons`); may be repeated."),
]
_OF_TOPIC = Annotated[str | None, typer.Option("--topic", help="Only of this topic, or of this table's.")]
_SINCE = Annotated[
    str | None, typer.Option("--since", help="Only refused at or after this time: ISO-8601, UTC if it has no zone.")
]
_DRY_RUN = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
_YES = Annotated[bool, typer.Option("--yes", help="Do not ask, where a person could be asked.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="dead-letters")


@group.command("list", epilog="Example: trs dead-letters list --reason bad_value --since 2024-05-01")
def list_letters(
    reason: _REASONS = None,
    topic: _OF_TOPIC = None,
    since: _SINCE = None,
    limit: Annotated[int, typer.Option(min=0, help="Letters shown at most, newest first.")] = 20,
    dealt_with: Annotated[bool, typer.Option("--all", help="Also letters that were replayed or discarded.")] = False,
    as_json: _JSON = False,
) -> None:
    """Show open dead letters: counts by reason and topic, then the newest. What they hold is not shown.

    `trs dead-letters show` shows a letter whole, which may be personal data.
    """
    from app.dead_letters import DeadLetters
    from app.lake_session import LakeSession
    from app.letter_printing import print_counts, print_letters
    from app.printing import plain
    from app.settings import load_settings

    settings = load_settings()
    with LakeSession(settings) as session:
        selection = _selection(settings, reason, topic, since, dealt_with=dealt_with)
        letters = DeadLetters(session)
        counts, newest = letters.counts(selection), letters.newest(selection, limit)
    if as_json:
        found = {"counts": [asdict(c) for c in counts], "letters": [asdict(letter) for letter in newest]}
        typer.echo(json.dumps(plain(found), indent=2))
        return
    print_counts(counts, "dead letters" if dealt_with else "open dead letters")
    if newest:
        print_letters(newest, total=sum(c.letters for c in counts))


@group.command(epilog="Example: trs dead-letters show invoices 3 1042 --out record.json")
def show(
    topic: _TOPIC,
    partition: _PARTITION,
    offset: _OFFSET,
    out: Annotated[Path | None, typer.Option(help="Write the value to this file instead, byte for byte.")] = None,
    as_json: _JSON = False,
) -> None:
    """Show one dead letter whole: its place and reason, key and raw value. They may hold personal data.

    What is UTF-8 is shown as text with its control characters escaped, anything else as hexadecimal digits.
    """
    from app.dead_letters import DeadLetters
    from app.lake_session import LakeSession
    from app.letter_printing import held_as_json, print_letter
    from app.output import write_bytes
    from app.printing import message, plain
    from app.settings import load_settings
    from processors.errors import UsageError
    from processors.open_letters import full_topic

    settings = load_settings()
    with LakeSession(settings) as session:
        content = DeadLetters(session).content(full_topic(topic, settings.topic_prefix), partition, offset)
    if out is not None and content.value is None:
        raise UsageError(f"--out {out}: the record has no value, so there is nothing to write")
    if as_json:
        value = {} if out is not None else {"value": held_as_json(content.value)}
        shown = {**asdict(content.letter), "record_ts": content.record_ts, "key": held_as_json(content.key), **value}
        typer.echo(json.dumps(plain(shown), indent=2))
    else:
        print_letter(content, with_value=out is None)
    if out is not None and content.value is not None:
        write_bytes(content.value, out)
        message(f"{len(content.value)} bytes: {out}")


@group.command(epilog="Example: trs dead-letters replay --reason unknown_source --dry-run")
def replay(
    topic: _ONE_TOPIC = None,
    partition: _ONE_PARTITION = None,
    offset: _ONE_OFFSET = None,
    reason: _REASONS = None,
    of_topic: _OF_TOPIC = None,
    since: _SINCE = None,
    note: Annotated[str | None, typer.Option(help="Why, for those who come later.")] = None,
    dry_run: _DRY_RUN = False,
    yes: _YES = False,
    as_json: _JSON = False,
) -> None:
    """Send open dead letters to their topics again, key and value unchanged: after their cause was mended.

    A record carries its own place in the source's history, so it changes nothing that is newer, however late it comes,
    and sending it twice does no harm. The worker judges it anew: what it refuses again is a new dead letter, at a new
    offset. Rows that a source's reader rejected cannot be sent again: they are corrected at the source. A worker that
    stopped at one of the letters (exit code 11, TRS_DEAD_LETTER_STOP) passes it at its next start.

    For Kafka it is a new record: its time is that of the replay, so that it is kept as long as any other, and it has no
    headers. The worker reads none; of Debezium's, which link the two halves of a changed key, each half stands for
    itself. Kafka's time counts (as valid_from) only for a record that carries no time of its source.
    """
    from app.dead_letters import DeadLetters, replayable
    from app.dead_letters import replay as send
    from app.lake_session import LakeSession
    from app.letter_printing import print_counts, print_outcome
    from app.printing import message
    from app.settings import load_settings
    from processors.errors import UsageError

    settings = load_settings()
    with LakeSession(settings) as session:
        letters = DeadLetters(session)
        selection = _chosen(settings, letters, (topic, partition, offset), reason, of_topic, since)
        counts, refused = replayable(letters.counts(selection), settings)
        for name, why in refused.items():
            if not counts:
                raise UsageError(f"{name}: {why}")
            message(f"{name}: {why}", warning=True)
        total = sum(c.letters for c in counts)
        done = 0
        if not as_json:
            print_counts(counts, "dead letters to send again")
        if counts and not dry_run and _agreed(f"Send {total} records again?", yes=yes):
            topics = sorted({c.topic for c in counts})
            done = send(settings, letters, selection, topics, note=note, progress=_progress(total))
    print_outcome(counts, done, "replayed", dry_run=dry_run, as_json=as_json)
    if done and not as_json:
        message(f"{done} sent; `trs dead-letters list` shows those that the worker refuses again, at their new offsets")


@group.command(epilog='Example: trs dead-letters discard invoices 3 1042 --note "test record of the 3rd"')
def discard(
    note: Annotated[str, typer.Option(help="Why, for those who come later.")],
    topic: _ONE_TOPIC = None,
    partition: _ONE_PARTITION = None,
    offset: _ONE_OFFSET = None,
    reason: _REASONS = None,
    of_topic: _OF_TOPIC = None,
    since: _SINCE = None,
    dry_run: _DRY_RUN = False,
    yes: _YES = False,
    as_json: _JSON = False,
) -> None:
    """Put open dead letters aside: they were dealt with. They stay in the lake; `list --all` shows them.

    A worker that stopped at one of them (exit code 11, TRS_DEAD_LETTER_STOP) passes it at its next start.
    """
    from app.dead_letters import DeadLetters
    from app.dead_letters import discard as put_aside
    from app.lake_session import LakeSession
    from app.letter_printing import print_counts, print_outcome
    from app.printing import message
    from app.settings import load_settings

    settings = load_settings()
    with LakeSession(settings) as session:
        letters = DeadLetters(session)
        selection = _chosen(settings, letters, (topic, partition, offset), reason, of_topic, since)
        counts = letters.counts(selection)
        total = sum(c.letters for c in counts)
        done = 0
        if not as_json:
            print_counts(counts, "dead letters to put aside")
        if counts and not dry_run and _agreed(f"Put {total} dead letters aside?", yes=yes):
            done = put_aside(settings, letters, selection, note=note)
    print_outcome(counts, done, "discarded", dry_run=dry_run, as_json=as_json)
    if done and not as_json:
        message(f"{done} put aside")


@group.command(epilog="Example: TRS_DEAD_LETTER_STOP=bad_position,unknown_source trs worker")
def reasons(as_json: _JSON = False) -> None:
    """Show every reason and its meaning. The worker goes on after each, unless TRS_DEAD_LETTER_STOP names it.

    Then it stops before the record, with exit code 11, at every start: until the cause is mended, or its letter was
    discarded or replayed, or the reason is taken out.
    """
    from rich.console import Console
    from rich.table import Table

    from app.settings import load_settings
    from processors.reasons import Reason

    stop = load_settings().dead_letter_stop
    if as_json:
        rows = [{"reason": str(r), "meaning": r.meaning, "stops_the_worker": r in stop} for r in Reason]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("reason", "the worker", "meaning", box=None, header_style="bold")
    for reason in Reason:
        table.add_row(reason, "stops" if reason in stop else "goes on", reason.meaning)
    Console(highlight=False).print(table)


def _selection(
    settings: "Settings", reasons: list[str] | None, topic: str | None, since: str | None, *, dealt_with: bool = False
) -> "Selection":
    from datetime import UTC, datetime

    from processors.features.as_of import parse_time
    from processors.open_letters import Selection, full_topic

    return Selection(
        reasons=tuple(reasons or ()),
        topic=None if topic is None else full_topic(topic, settings.topic_prefix),
        since=None if since is None else parse_time(since, now=datetime.now(UTC)),
        dealt_with=dealt_with,
    )


def _chosen(
    settings: "Settings",
    letters: "DeadLetters",
    place: tuple[str | None, int | None, int | None],
    reasons: list[str] | None,
    of_topic: str | None,
    since: str | None,
) -> "Selection":
    """The open letters that a command shall act on. Raises UsageError when it names none, or one that is not open."""
    from app.letter_printing import state_of
    from processors.errors import UsageError
    from processors.open_letters import Selection, full_topic

    topic, partition, offset = place
    if topic is None:
        selection = _selection(settings, reasons, of_topic, since)
        if selection.is_everything:
            raise UsageError("nothing is named", hint="name TOPIC PARTITION OFFSET, or --reason, --topic, --since")
        return selection
    if partition is None or offset is None or reasons or of_topic or since:
        raise UsageError("one letter is named by TOPIC PARTITION OFFSET and nothing else")
    full = full_topic(topic, settings.topic_prefix)
    letter = letters.content(full, partition, offset).letter
    if letter.action is not None:
        raise UsageError(f"{full}-{partition} offset {offset} is not open: {state_of(letter)}")
    return Selection(topic=full, partition=partition, offset=offset)


def _agreed(question: str, *, yes: bool) -> bool:
    """Whether to go on: asks on a terminal only."""
    return yes or not sys.stdin.isatty() or typer.confirm(question, err=True)


def _progress(total: int) -> Callable[[int], None]:
    def tell(done: int) -> None:
        if sys.stderr.isatty() and total > done:
            sys.stderr.write(f"\r{done} of {total} sent")

    return tell
