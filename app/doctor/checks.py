"""Checks and how they are made: side by side, each under a time limit of its own, none able to end another.

A check returns what it found, or raises. A check that needs another one's success waits for it, and is not looked at if
that one failed: so a broker that is away is told once and not by everything behind it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum

from app.faults import known_fault
from processors.errors import TrsError

LIMIT_S = 20.0
_REPORT = "this is a fault of the program: please report it"


class Outcome(StrEnum):
    """What a check came to, the worst last but for what was not looked at."""

    OK = "ok"
    NOT_LOOKED_AT = "not looked at"
    WARNING = "warning"
    FAILED = "failed"


_WORST = tuple(Outcome)


@dataclass(frozen=True)
class Finding:
    """One thing that a check found. `advice`: what to do, None where there is nothing to do."""

    outcome: Outcome
    said: str
    advice: str | None = None


def ok(said: str) -> Finding:
    """As it should be."""
    return Finding(Outcome.OK, said)


def warning(said: str, advice: str) -> Finding:
    """Works, but somebody should see to it."""
    return Finding(Outcome.WARNING, said, advice)


def failed(said: str, advice: str) -> Finding:
    """Does not work, or will lose something."""
    return Finding(Outcome.FAILED, said, advice)


def not_looked_at(said: str, advice: str | None = None) -> Finding:
    """Could not be judged; that is no failure of what would have been judged."""
    return Finding(Outcome.NOT_LOOKED_AT, said, advice)


@dataclass(frozen=True)
class Check:
    """`look` returns at least one finding; a TrsError that it raises is a failed check with the error's own hint.

    `needs`: names of checks that must not have failed. `limit_s`: how long `look` may take, waiting for them left out.
    """

    name: str
    look: Callable[[], Sequence[Finding]]
    needs: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Checked:
    """A check that was made. `outcome` is the worst of its findings; `seconds` is how long it looked.

    `hangs`: it did not end in its time, and its thread is still there.
    """

    name: str
    findings: tuple[Finding, ...]
    seconds: float
    hangs: bool = False

    @property
    def outcome(self) -> Outcome:
        return max((f.outcome for f in self.findings), key=_WORST.index, default=Outcome.NOT_LOOKED_AT)


def make_checks(
    checks: Sequence[Check], *, made: Callable[[Checked], None] = lambda _checked: None
) -> tuple[Checked, ...]:
    """Makes all checks at once and returns them in their own order; `made` is told each as it ends, by its thread.

    Raises ValueError for a check that needs one which does not stand before it.
    """
    outcomes: dict[str, Future[Checked]] = {}
    for check in checks:
        if any(name not in outcomes for name in check.needs):
            raise ValueError(f"check {check.name} needs one that does not stand before it: {check.needs}")
        outcomes[check.name] = Future()

    def make(check: Check) -> None:
        missing = [name for name in check.needs if outcomes[name].result().outcome is Outcome.FAILED]
        missing += [name for name in check.needs if _skipped(outcomes[name].result())]
        if missing:
            done = Checked(check.name, (not_looked_at(f"first see to: {', '.join(missing)}"),), 0.0)
        else:
            done = _within_limit(check)
        try:
            made(done)
        finally:
            outcomes[check.name].set_result(done)

    for check in checks:
        threading.Thread(target=make, args=(check,), name=f"doctor-{check.name}", daemon=True).start()
    return tuple(outcomes[check.name].result() for check in checks)


def _skipped(checked: Checked) -> bool:
    return all(f.outcome is Outcome.NOT_LOOKED_AT for f in checked.findings)


def _within_limit(check: Check) -> Checked:
    """The check in a thread that is left behind when its time is over: nobody can end a thread."""
    found: Future[Sequence[Finding]] = Future()

    def look() -> None:
        try:
            found.set_result(check.look())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this check's outcome
            found.set_exception(error)

    began_s, hangs = time.monotonic(), False
    threading.Thread(target=look, name=f"doctor-{check.name}-look", daemon=True).start()
    try:
        findings = tuple(found.result(timeout=check.limit_s))
    except TimeoutError:
        findings = (failed(f"no answer within {check.limit_s:.0f} s", "see whether what it asks hangs"),)
        hangs = not found.done()
        if not hangs:  # a TimeoutError of the check's own
            findings = (_crash(found.exception()),)
    except BaseException as error:  # noqa: BLE001 - as above
        findings = (_crash(error),)
    return Checked(check.name, findings, time.monotonic() - began_s, hangs)


def _crash(error: BaseException | None) -> Finding:
    ours = error if isinstance(error, TrsError) else None if error is None else known_fault(error)
    if ours is not None:
        return failed(ours.message, ours.hint or "see docs/runbooks")
    first = str(error).partition("\n")[0]
    return failed(f"the check itself broke down: {type(error).__name__}: {first}", _REPORT)
