"""Asks Kafka every few seconds where the partitions of this worker end: is it there, and how much waits?

In a thread of its own: a cluster that is away answers late or never. The consumer tells neither, since it waits for
lost brokers in silence and knows the end only of what it fetched lately.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from app.probes import LagHistory
from connectors.kafka import KafkaConfig, PartitionEnds
from processors.errors import TrsError

Place = tuple[str, int]


class BrokerWatch:
    """Looks from `start` to `stop`. `places`: the partitions that the worker reads now, None during a rebalance.

    `committed`: the next offset of each partition that is committed; what is missing there was never read.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        places: Callable[[], Collection[Place] | None],
        committed: Callable[[], Mapping[Place, int]],
        history: LagHistory,
        *,
        every_s: float,
    ) -> None:
        self._kafka = PartitionEnds(kafka)
        self._places = places
        self._committed = committed
        self._history = history
        self._every_s = every_s
        self._ended = threading.Event()
        self._answered_s = time.monotonic()
        self.reason: str | None = None
        self.ends: Mapping[Place, int] = {}
        """The next offset of each partition at the last look that was answered."""

    @property
    def silent_s(self) -> float:
        """How long ago the brokers answered last."""
        return time.monotonic() - self._answered_s

    @property
    def lag(self) -> dict[Place, int]:
        """Records of each partition that are not committed, by the last look; of one that went to another nothing."""
        ours, committed = frozenset(self._places() or ()), self._committed()
        return {place: max(0, end - committed.get(place, 0)) for place, end in self.ends.items() if place in ours}

    def start(self) -> None:
        """The first look follows at once."""
        threading.Thread(target=self._run, name="broker-watch", daemon=True).start()

    def stop(self) -> None:
        """No look begins any more; one that is under way is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(self._every_s)

    def look(self) -> None:
        """Asks once."""
        places = self._places()
        try:
            ends = self._kafka.read(places or ())
        except TrsError as error:
            self.reason = error.message
            return
        self._answered_s, self.reason, self.ends = time.monotonic(), None, ends
        if places is None:
            self._history.forget()
        else:
            self._history.note(sum(self.lag.values()))
