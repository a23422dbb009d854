"""What the worker's log lets through."""

import logging

import pytest

from app.logs import configure_logging
from app.settings import Settings


def test_log_library_that_repeats_itself_is_heard_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers
    try:
        configure_logging(Settings(log_format="json"))
        for number in range(50):
            logging.getLogger("aiokafka.client").error("node %s is away", number)
            logging.getLogger("trs.worker").error("ours")
    finally:
        logging.getLogger().handlers = before
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "is away" in line]) == 1
    assert len([line for line in lines if "ours" in line]) == 50
