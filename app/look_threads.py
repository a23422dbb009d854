"""The event loop's threads for looks at the lake and at Kafka: whoever ends does not wait for a store that hangs."""

import time
from concurrent.futures import ThreadPoolExecutor

_COME_BACK_S = 0.5
"""A thread that has nothing to do any more ends at once."""


class LookThreads(ThreadPoolExecutor):
    """As the loop's default executor it runs what `asyncio.to_thread` is given: looks, and what is awaited to its end.

    asyncio's own executor is waited for when the loop closes, however long a call in it hangs.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="look")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Begins nothing any more. Never waits, whatever `wait` says; see `come_back`."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def come_back(self) -> bool:
        """After `shutdown`: whether no call is under way any more. One that is would keep the process from ending."""
        until_s = time.monotonic() + _COME_BACK_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
