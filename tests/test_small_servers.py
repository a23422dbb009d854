"""The small servers of the tests end with their block: one that went on would slow every later test of the process."""

import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer

import pytest

from tests.scripted_http import Script
from tests.small_connect import SmallConnect


@pytest.mark.parametrize("make", [lambda: Script((200, {})), SmallConnect], ids=["script", "connect"])
def test_server_leaves_no_thread_behind(make: Callable[[], ThreadingHTTPServer]) -> None:
    before = set(threading.enumerate())
    with make():
        (serving,) = set(threading.enumerate()) - before
    serving.join(5)
    assert not serving.is_alive()
