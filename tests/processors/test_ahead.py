"""One of several things is made while the one before it is used."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from processors.ahead import one_ahead


def test_the_next_is_made_while_one_is_used_and_no_more_than_that() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(one_ahead(items())) as ahead:
        assert next(ahead) == 0
        assert made[1].wait(30)
        assert not made[2].is_set()
        assert list(ahead) == [1, 2, 3]


def test_what_fails_fails_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(ahead)


def test_closing_waits_for_the_one_that_is_being_made() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        may_end.wait(30)
        ended.set()
        yield 2
        raise AssertionError("nobody asked for a third one")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    assert begun.wait(30)
    threading.Timer(0.1, may_end.set).start()
    ahead.close()
    assert ended.is_set()
