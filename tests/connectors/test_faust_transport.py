"""The consumer's thread where it ends before its time."""

import asyncio

from connectors.faust_transport import BatchConsumerThread


class EndedThread:
    """What is left of a thread whose broker was away as it began."""

    def __init__(self) -> None:
        self._leaving = asyncio.Event()
        self.thread_loop = asyncio.new_event_loop()
        self.thread_loop.close()


def test_leaving_a_thread_that_has_ended_is_no_error() -> None:
    BatchConsumerThread.leave(EndedThread())  # type: ignore[arg-type]
