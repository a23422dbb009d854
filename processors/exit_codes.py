"""The page docs/exit_codes.md, written from the errors: `python -m processors.exit_codes > docs/exit_codes.md`.

`make check` compares the file with what the errors say.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from processors import errors
from processors.errors import TrsError

_HEAD = """\
# Exit codes

Written by `python -m processors.exit_codes > docs/exit_codes.md` from `processors/errors.py`; do not edit it by hand.

Every failure of a command is one line on stderr: what is concerned, and in parentheses what to do. The code says the
same to a supervisor or scheduler. *Again*: whether the same command may succeed when it is started again and nobody did
anything. A supervisor may start a worker again in every case, with a pause that grows: a code that needs a person comes
again at once and harms nothing.

| code | error | means | again | who does what |
| --- | --- | --- | --- | --- |
"""

_TAIL = """
Codes that are no error's:

| code | means |
| --- | --- |
| 0 | done; a worker that was told to stop (SIGTERM, SIGINT) and has finished its commits |
| 1 | `trs status`, `trs connector status`: an alarm; `trs doctor`: a check failed; `devstack status`: not all runs |
| 128 + n | signal n ended the command before it was done: 130 Ctrl-C, 143 SIGTERM, 137 killed (on ECS mostly memory) |
"""


@dataclass(frozen=True)
class Advice:
    """What to do about a code. `again`: whether to start the same again helps by itself."""

    again: str
    todo: str


ADVICE: dict[int, Advice] = {
    1: Advice("no", "Read the line; `trs doctor`."),
    2: Advice("no", "Correct the argument or setting that it names; `trs settings` shows values and origins."),
    3: Advice(
        "no",
        "Correct the table, file, right or topic that it names: [schema_changes](schema_changes.md), [cdc](cdc.md).",
    ),
    4: Advice("yes", "Wait for the system that it names, or start it; `trs doctor` says which others are away."),
    5: Advice("no", "Give the rights, or the right credentials; `trs doctor` names what may not be read or written."),
    6: Advice("yes", "Nothing. If it comes for ever: [doctor](runbooks/doctor.md)."),
    7: Advice("yes", "Nothing: the next start looks for the commit and goes on with or without it."),
    8: Advice("yes", "Nothing, unless two workers or snapshots take turns: then stop one, or look for long pauses."),
    9: Advice(
        "no", "[offset-gap](runbooks/offset-gap.md): find out what is missing, accept the gap, compare with the source."
    ),
    10: Advice("no", "Free space below TRS_HOME, or of the lake, or set another place."),
    11: Advice("no", "Mend the cause, then `trs dead-letters replay` or `discard`; or take the reason out."),
    12: Advice("no", "[rebuild-lake](runbooks/rebuild-lake.md)."),
    13: Advice("yes", "Let a worker catch up, then verify again."),
    14: Advice("no", "`trs connector status` has the connector's own reason; [cdc](cdc.md)."),
    15: Advice("no", "`trs reconcile --repair`; if it comes again, find out who does not send: [cdc](cdc.md)."),
    16: Advice("no", "[quality](quality.md): correct the data at the source, or the check."),
    70: Advice("yes", "Report it with the log. A worker has committed nothing with a state that is in doubt."),
}


def tree() -> Iterator[type[TrsError]]:
    """The declared errors, in the order of their codes and of their declaration."""
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, TrsError)]
    yield from sorted(found, key=lambda e: e.exit_code)


def markdown() -> str:
    """The whole page. Raises KeyError for a code without advice."""
    rows = []
    for error in tree():
        advice = ADVICE[error.exit_code]
        meaning = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| {error.exit_code} | `{error.__name__}` | {meaning} | {advice.again} | {advice.todo} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


if __name__ == "__main__":
    sys.stdout.write(markdown())
