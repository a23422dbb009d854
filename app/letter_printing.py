"""How dead letters are shown: counts, the newest, one of them whole."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from app.dead_letters import Content, Count, Letter
from app.printing import message, wide_console
from processors.features.as_of import format_time


def print_outcome(counts: Sequence[Count], done: int, action: str, *, dry_run: bool, as_json: bool) -> None:
    """What a command did: JSON, or a word where it did nothing."""
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "counts": [asdict(c) for c in counts], action: done}, indent=2))
    elif counts and not done:
        message("nothing was done" + (": --dry-run" if dry_run else ""))


def print_counts(counts: Sequence[Count], what: str) -> None:
    """How many letters, by reason and topic; `what` names them."""
    console = Console(highlight=False)
    if not counts:
        console.print(f"no {what}")
        return
    table = Table("reason", "topic", box=None, header_style="bold")
    table.add_column("letters", justify="right")
    for count in counts:
        table.add_row(_printable(count.reason), count.topic, str(count.letters))
    console.print(f"{sum(c.letters for c in counts)} {what}", style="bold")
    console.print(table, markup=False)


def print_letters(letters: Sequence[Letter], *, total: int) -> None:
    """The letters one by one, without what they hold; says how many of `total` they are."""
    table = Table("topic", "partition", "offset", "refused", "reason", box=None, header_style="bold")
    table.add_column("detail", overflow="fold")
    dealt_with = any(letter.action is not None for letter in letters)
    if dealt_with:
        table.add_column("dealt with", overflow="fold")
    for letter in letters:
        time = "" if letter.time is None else format_time(letter.time)
        cells = (letter.topic, str(letter.partition), str(letter.offset), time, letter.reason, letter.detail)
        table.add_row(*map(_printable, (*cells, state_of(letter)) if dealt_with else cells))
    console = wide_console()
    console.print()
    console.print(table, markup=False)
    if total > len(letters):
        message(f"the newest {len(letters)} of {total}; --limit shows more")


def state_of(letter: Letter) -> str:
    """What was done about the letter, by whom, when and why; empty while it is open."""
    if letter.action is None or letter.done_at is None:
        return ""
    why = "" if letter.note is None else f": {letter.note}"
    return f"{letter.action} by {letter.who} at {format_time(letter.done_at)}{why}"


def print_letter(content: Content, *, with_value: bool) -> None:
    """A letter whole, or without its value."""
    letter = content.letter
    times = {"refused": letter.time, "record": content.record_ts}
    lines = {"place": f"{letter.topic}-{letter.partition} offset {letter.offset}"}
    lines |= {"reason": letter.reason, "detail": letter.detail}
    lines |= {name: format_time(time) for name, time in times.items() if time is not None}
    lines |= {"state": state_of(letter) or "open", "key": _as_text(content.key)}
    for name, text in lines.items():
        typer.echo(f"{name + ':':<9}{_printable(text)}")
    if with_value:
        size = "" if content.value is None else f" {len(content.value)} bytes"
        typer.echo(f"value:{size}\n{_as_text(content.value)}")


def held_as_json(raw: bytes | None) -> dict[str, str] | None:
    """Bytes as JSON holds them: `{"text": …}` where they are UTF-8, else `{"hex": …}`."""
    if raw is None:
        return None
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"hex": raw.hex()}


def _as_text(raw: bytes | None) -> str:
    held = held_as_json(raw)
    if held is None:
        return "(null)"
    return _printable(held["text"]) if "text" in held else f"(hex) {held['hex']}"


def _printable(text: str) -> str:
    """The text without what a terminal would obey: control characters other than line feed and tab are escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
