"""The worker's log: one event per line on stderr, as text for people or as JSON for machines; libraries only warn."""

import logging
import sys
from typing import TextIO

import structlog

from app.settings import Settings
from processors.activity import EPOCH

_NOISY = ("faust", "mode", "aiokafka", "asyncio", "aiohttp", "botocore", "urllib3")
_SERVICES = ("app.streaming", "app.web", "connectors.faust_transport")
"""Faust names the log of a service by the module of its class: who starts and stops is no news."""
_CLIENT = "trs.kafka"
CONFIGURED = ("", *_NOISY, *_SERVICES, _CLIENT)
"""The loggers that `configure_logging` changes; the first is the root."""


_REPEAT_S = 10.0
_LASTS_S = 30.0
_GROUP_LOG, _NO_COORDINATOR = "aiokafka.consumer.group_coordinator", "GroupCoordinatorNotAvailableError"
_TRACEBACK = structlog.dev.plain_traceback
"""Without the values of variables, which may be secrets or personal data."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment, so that a progress line can put itself below the log."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Seldom(logging.Filter):
    """Lets each message of a library through once per period: an absent broker is no news ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_NOISY):
            return True
        message = (record.name, str(record.msg))
        if record.created - self._last.get(message, -_REPEAT_S) < _REPEAT_S:
            return False
        self._last[message] = record.created
        return True


class _Passing(logging.Filter):
    """Makes aiokafka's error about an absent group coordinator an info until it has lasted for half a minute.

    The first member of the first group of a new broker meets it always: the topic that holds the groups' offsets is
    being made. So does every member for a moment when a broker is restarted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = self._last = -_LASTS_S

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != _GROUP_LOG or _NO_COORDINATOR not in record.getMessage():
            return True
        if record.created - self._last >= _LASTS_S:
            self._since = record.created
        self._last = record.created
        if record.created - self._since < _LASTS_S:
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return record.levelno >= logging.getLogger().level


def _name_epoch(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Says on which epoch the thread works that logs."""
    epoch = EPOCH.get()
    if epoch is not None:
        event.setdefault("epoch", epoch)
    return event


def configure_logging(settings: Settings) -> None:
    """Sets up the root logger and structlog by `TRS_LOG_FORMAT` and `TRS_LOG_LEVEL`; call once per process."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, stamp]
    renderer: structlog.typing.Processor
    if settings.log_format == "json":
        shared.append(_name_epoch)
        renderer = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.format_exc_info)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=_TRACEBACK
        )
    handler = _Stderr()
    handler.addFilter(_Passing())
    if settings.log_level != "DEBUG":
        handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in (*_NOISY, *_SERVICES):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.setLevel(settings.log_level if settings.log_level == "DEBUG" else "WARNING")
    if settings.log_level != "DEBUG":
        logging.getLogger(_CLIENT).setLevel("CRITICAL")  # librdkafka repeats what our errors say once
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
