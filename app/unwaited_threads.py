"""Threads for calls that may hang in Kafka or the store: whoever ends does not wait for them."""

import time
from concurrent.futures import ThreadPoolExecutor

_COME_BACK_S = 0.5
"""A thread that has nothing to do any more ends at once."""


class UnwaitedThreads(ThreadPoolExecutor):
    """An executor whose end waits for no call; `come_back` tells whether one is left.

    As the event loop's default executor it runs what `asyncio.to_thread` is given; asyncio's own is waited for when the
    loop closes, however long a call in it hangs.
    """

    def __init__(self, name: str, *, count: int | None = None) -> None:
        super().__init__(count, thread_name_prefix=name)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Begins nothing any more. Never waits, whatever `wait` says; see `come_back`."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def come_back(self) -> bool:
        """After `shutdown`: whether no call is under way any more. One that is would keep the process from ending."""
        until_s = time.monotonic() + _COME_BACK_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
