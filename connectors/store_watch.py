"""Says that the object store does not answer, long before whoever needs it gives up.

The libraries try a request again for up to three minutes without a word. So a thread of its own asks the store for
something small every two seconds and logs when answers stay away, and when they come again. What to do about a store
that is away is decided where it is needed: this only tells.
"""

import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from connectors.object_store import s3_store
from processors.lake_tables import CONTROL_LOG

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_PATIENCE_S = 2.5
_REPEAT_S = 15.0
_LONGEST_REASON = 200


class StoreWatch:
    """Watches the S3 store of one lake while its context is open, in a thread that does not keep the process alive."""

    def __init__(self, uri: str, storage_options: Mapping[str, str]) -> None:
        parts = urlsplit(uri)
        endpoint = storage_options.get("AWS_ENDPOINT_URL", "AWS")
        self._name = f"S3 at {endpoint}, bucket {parts.netloc},"
        patience = {"timeout": f"{_PATIENCE_S}s", "connect_timeout": f"{_PATIENCE_S}s"}
        self._store = s3_store(parts.netloc, {**storage_options, **patience}, patience_s=0)
        self._key = f"{parts.path.strip('/')}/{CONTROL_LOG.name}/_delta_log/_last_checkpoint".lstrip("/")
        self._away_since_s: float | None = None
        self._told_s = 0.0
        self._ended = threading.Event()

    @property
    def away(self) -> str | None:
        """A sentence while the store does not answer, None while it does."""
        since_s = self._away_since_s
        if since_s is None:
            return None
        return f"{self._name} has not answered for {time.monotonic() - since_s:.0f} s"

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="store-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look(time.monotonic())
            self._ended.wait(_LOOK_S)

    def look(self, now_s: float) -> None:
        """Asks once. A refusal is an answer: whoever needs the store learns of it at once."""
        try:
            obstore.head(self._store, self._key)
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
            pass
        except BaseError as error:
            self._away(now_s, error)
            return
        if self._away_since_s is not None:
            log.warning("%s answers again", self._name)
        self._away_since_s = None

    def _away(self, now_s: float, error: BaseError) -> None:
        if self._ended.is_set():
            return
        if self._away_since_s is None:
            self._away_since_s = now_s
        elif now_s - self._told_s < _REPEAT_S:
            return
        self._told_s = now_s
        reason = str(error).partition("\n")[0].rpartition(" - ")[2][:_LONGEST_REASON]
        log.warning("%s does not answer (%s); what needs it is tried again", self._name, reason)
