"""Waiting for a condition, with a limit, in place of sleeps."""

import time
from collections.abc import Callable

_POLL_S = 0.05


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Returns once the condition holds; fails after `timeout_s` with a message that names `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(_POLL_S)
