"""Reads in the background while the foreground writes."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


class _End:
    """One reader has nothing more, or failed."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class ReadAhead(Generic[T]):
    """Items of several iterators, each read by a thread of its own, as they come; those of one keep their order.

    A context manager: leaving it ends the threads. An exception of a reader is raised where its items are consumed.
    """

    def __init__(self, readers: Sequence[Callable[[], Iterator[T]]], *, depth: int = 2) -> None:
        self._items: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(r,), daemon=True) for r in readers]

    def __enter__(self) -> Iterator[T]:
        for thread in self._threads:
            thread.start()
        return self._consume()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _consume(self) -> Iterator[T]:
        left = len(self._threads)
        while left:
            item = self._items.get()
            if not isinstance(item, _End):
                yield item
                continue
            if item.error is not None:
                raise item.error
            left -= 1

    def _read(self, reader: Callable[[], Iterator[T]]) -> None:
        error: Exception | None = None
        try:
            for item in reader():
                if not self._put(item):
                    return
        except Exception as raised:  # noqa: BLE001 - it is raised again in the consumer
            error = raised
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
