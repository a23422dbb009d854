"""A server of a test's own ends with its block: one that went on would slow every later test of the process."""

import threading

from tests.small_server import QuietHandler, SmallServer


def test_server_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with SmallServer(QuietHandler):
        (serving,) = set(threading.enumerate()) - before
    serving.join(5)
    assert not serving.is_alive()
