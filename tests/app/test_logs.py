"""What the worker's log lets through."""

import json
import logging
from typing import Literal

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError

from app.logs import configure_logging
from app.settings import Settings


def test_log_library_that_repeats_itself_is_heard_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    for number in range(50):
        logging.getLogger("aiokafka.client").error("node %s is away", number)
        logging.getLogger("trs.worker").error("ours")
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "is away" in line]) == 1
    assert len([line for line in lines if "ours" in line]) == 50


def absent_coordinator(at_s: float) -> logging.LogRecord:
    """What aiokafka logs at each look for a coordinator that is not there."""
    error = GroupCoordinatorNotAvailableError()
    told = ("Group Coordinator Request failed: %s", (error,))
    record = logging.LogRecord("aiokafka.consumer.group_coordinator", logging.ERROR, "", 0, *told, None)
    record.created = at_s
    return record


@pytest.mark.parametrize(
    ("log_level", "levels"),
    [("INFO", ["info", "info", "info", "error", "error", "info"]), ("WARNING", ["error", "error"])],
)
def test_log_absent_coordinator_is_an_error_only_once_it_lasts(
    capsys: pytest.CaptureFixture[str], log_level: Literal["INFO", "WARNING"], levels: list[str]
) -> None:
    configure_logging(Settings(log_format="json", log_level=log_level))
    first = [1000 + tenths / 10 for tenths in range(450)]
    for at_s in (*first, first[-1] + 60):
        logging.getLogger().handle(absent_coordinator(at_s))
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == levels


def test_log_other_errors_of_the_group_stay_errors(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    logging.getLogger("aiokafka.consumer.group_coordinator").error("Group Coordinator Request failed: %s", "refused")
    assert json.loads(capsys.readouterr().err)["level"] == "error"
