"""Commits of one stage, one after another in the order in which they come (R5), while the stage computes on.

    stage    merge ─ put log ─ derive ─ put features ─ put epochs ─ settle
    lane               └─ commit ────────── commit ──── commit ──────┘

After a commit that failed no other begins: what was handed over behind it is dropped.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context


class CommitLane:
    """Used by one thread; each commit runs in another, which lives while there is one.

    That is no executor's: one that hangs in a commit would keep the process from its end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False
        self._failure: BaseException | None = None

    def put(self, commit: Callable[[], None]) -> None:
        """Hands a commit over; it begins when those before it are made."""
        with self._changed:
            if self._failure is not None:
                return
            self._waiting.append(commit)
            if not self._busy:
                self._busy = True
                threading.Thread(target=copy_context().run, args=(self._work,), name="commit", daemon=True).start()

    def settle(self) -> None:
        """Returns when every commit is made; raises the error of the one that failed, now and ever after."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            if self._failure is not None:
                raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                commit = self._waiting.popleft()
            try:
                commit()
            except BaseException as error:  # noqa: BLE001 - raised in the stage's thread
                with self._changed:
                    self._failure = error
                    self._waiting.clear()
