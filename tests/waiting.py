"""Waiting for a condition, with a limit, in place of sleeps."""

import time
from collections.abc import Callable

_POLL_S = 0.05
_PAUSES = 2
"""A condition is asked for again after so many times what the last answer took: what is waited for needs the cores."""


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Returns once the condition holds; fails after `timeout_s` with a message that names `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        asked_s = time.monotonic()
        if condition():
            return
        answered_s = time.monotonic()
        if answered_s > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(max(_POLL_S, _PAUSES * (answered_s - asked_s)))
