"""The end of a worker's process: Python's own waits for threads, and lets extension modules print what is no log."""

import faulthandler
import logging
import os
import sys
from typing import NoReturn

import structlog

log = structlog.get_logger("trs.worker")


def leave_at_once(code: int) -> NoReturn:
    """Ends the process with what was logged and printed, and waits for no thread."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_late(code: int) -> NoReturn:
    """Ends the process, which should have ended by itself; says what it was doing."""
    log.warning("the process does not end by itself: leaving", exit_code=code)
    faulthandler.dump_traceback(all_threads=True)
    leave_at_once(code)
