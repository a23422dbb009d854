"""`trs doctor`: one look at everything."""

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.doctor.checks import Checked

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "not looked at": "dim"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: trs doctor --json")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    problems: Annotated[bool, typer.Option("--problems", help="Leave out what is as it should be.")] = False,
) -> None:
    """Look at everything at once: settings, machine, Kafka, lake, source, Kafka Connect, workers, clocks, versions.

    Each line is ok, a warning, failed, or not looked at, with what to do. Nothing is changed anywhere. Checks run side
    by side, each for 20 s at most, 12 s for whether something answers at all. Exit code 1 if one failed.
    """
    from app.doctor.checks import Outcome
    from app.doctor.examine import examine
    from app.printing import message

    waiting = sys.stderr.isatty() and not as_json
    checked = examine(made=lambda done: message(f"looked at {done.name}") if waiting else None)
    count = {outcome.value: sum(f.outcome is outcome for c in checked for f in c.findings) for outcome in Outcome}
    if as_json:
        typer.echo(json.dumps({"counts": count, "checks": [_as_json(c) for c in checked]}, indent=2))
    else:
        _print(checked, problems=problems)
        typer.echo(", ".join(f"{number} {name}" for name, number in count.items()))
    if any(c.hangs for c in checked):
        # What the thread left behind waits for may hold up the interpreter's end, or be torn down under it.
        sys.stdout.flush()
        os._exit(1)
    if any(c.outcome is Outcome.FAILED for c in checked):
        raise typer.Exit(1)


def _as_json(checked: "Checked") -> dict[str, object]:
    return {
        "name": checked.name,
        "outcome": checked.outcome.value,
        "seconds": round(checked.seconds, 3),
        "findings": [{"outcome": f.outcome.value, "said": f.said, "advice": f.advice} for f in checked.findings],
    }


def _print(checked: "Sequence[Checked]", *, problems: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(c.name) for c in checked)
    for check in checked:
        for finding in check.findings:
            if problems and finding.outcome.value == "ok":
                continue
            line = Text.assemble(
                (f"{finding.outcome.value:13} ", _STYLES[finding.outcome.value]), f"{check.name:{width}} {finding.said}"
            )
            console.print(line)
            if finding.advice is not None:
                console.print(Text(f"{'':13} {'':{width}} → {finding.advice}", style="cyan"))
