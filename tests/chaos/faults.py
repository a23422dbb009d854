"""What will go wrong, and when: a plan that follows from the seed alone."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from devstack.fault_proxy import Fault


class Kind(StrEnum):
    """Kinds of faults. Each `s3_…` is a window in which the proxy in front of the S3 server fails requests."""

    KILL = "kill"
    """A worker is killed (SIGKILL)."""
    TERM = "term"
    """A worker is told to stop (SIGTERM)."""
    PAUSE = "pause"
    """A worker stands still (SIGSTOP, SIGCONT) for less than its session time-out."""
    ZOMBIE = "zombie"
    """A worker stands still for longer, so that others take its buckets; then it wakes up."""
    ADD = "add"
    """One worker more."""
    REMOVE = "remove"
    """One worker less, for good."""
    FOLD = "fold"
    """`trs lake maintain` beside the workers: it folds all that waits, compacts and vacuums."""
    FOLD_KILL = "fold_kill"
    """The same, killed on its way."""
    KAFKA_KILL = "kafka_kill"
    """The broker is killed and started again."""
    KAFKA_STOP = "kafka_stop"
    """The broker is stopped in order and started again."""
    S3_RESTART = "s3_restart"
    """The S3 server is stopped in order and started again."""
    DISK_FULL = "disk_full"
    """No space is left where a worker keeps its state; half the time it must start like this."""
    S3_SLOW = f"s3_{Fault.SLOW}"
    S3_REFUSE_500 = f"s3_{Fault.REFUSE_500}"
    S3_REFUSE_503 = f"s3_{Fault.REFUSE_503}"
    S3_DROP = f"s3_{Fault.DROP}"
    S3_CUT_REQUEST = f"s3_{Fault.CUT_REQUEST}"
    S3_CUT_ANSWER = f"s3_{Fault.CUT_ANSWER}"
    S3_DENY_500 = f"s3_{Fault.DENY_500}"
    S3_DROP_ANSWER = f"s3_{Fault.DROP_ANSWER}"
    S3_HANG = f"s3_{Fault.HANG}"

    @property
    def s3_fault(self) -> Fault | None:
        """What the proxy does in a window of this kind."""
        name = self.value.removeprefix("s3_")
        return Fault(name) if name in set(Fault) else None


_TIMES = {Kind.KILL: 3, Kind.TERM: 2, Kind.ZOMBIE: 2}
"""How often a kind is in the deck, if not once."""


@dataclass(frozen=True)
class Planned:
    """One fault. It comes `wait_s` after the one before and lasts `lasts_s`, where it lasts.

    `pick` in [0, 1) chooses its victim; `rate`: the share of requests that fail; `chance` in [0, 1): for what else is
    to be chosen.
    """

    number: int
    kind: Kind
    wait_s: float
    lasts_s: float
    pick: float
    rate: float
    chance: float


def plan(seed: int, count: int, *, session_timeout_s: float, without: Collection[Kind] = ()) -> Iterator[Planned]:
    """The faults of a seed. Kinds come from a shuffled deck, so that a run of some length meets each of them."""
    chance = random.Random(seed)
    deck: list[Kind] = []
    for number in range(1, count + 1):
        if not deck:
            deck = [kind for kind in Kind if kind not in without for _ in range(_TIMES.get(kind, 1))]
            chance.shuffle(deck)
        kind = deck.pop()
        yield Planned(
            number,
            kind,
            wait_s=chance.uniform(0.3, 6.0),
            lasts_s=_lasting(kind, chance.random(), session_timeout_s),
            pick=chance.random(),
            rate=chance.choice((0.05, 0.2, 0.5, 1.0)),
            chance=chance.random(),
        )


def _lasting(kind: Kind, share: float, session_timeout_s: float) -> float:
    if kind is Kind.ZOMBIE:
        return session_timeout_s + 1 + 4 * share
    if kind is Kind.PAUSE:
        return 0.3 + 2 * share
    return 1 + 4 * share
