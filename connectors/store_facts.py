"""Whether the lake's store may be written, and what its clock says. Nothing in it is changed."""

import os
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import urllib3
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from urllib3.util import Timeout

from connectors.lake import LakeLocation, LakeStore, wrap_error
from connectors.object_store import s3_store
from processors.errors import AccessDeniedError, TrsError, UnavailableError
from processors.lake_tables import CONTROL_LOG

_PATIENCE_S = 8.0


def check_writable(location: LakeLocation) -> str:
    """How it was seen that the lake may be written. Raises AccessDeniedError, UnavailableError, and a TrsError for a
    store that is not safe.

    On S3 the newest commit of a table is put where it is already, on condition that nothing is there: a store that
    Delta is safe on refuses with 412 whom it lets write, and with 403 whom it does not. Were the condition not
    honoured, the same bytes would stand there. The right to use a KMS key may be refused only at a real write.
    """
    if not location.uri.startswith("s3://"):
        folders = [Path(location.uri), *(p for p in Path(location.uri).iterdir() if p.is_dir())]
        refused = [str(f) for f in folders if not os.access(f, os.W_OK | os.X_OK)]
        if refused:
            raise AccessDeniedError(f"{refused[0]} cannot be written", hint="check who may write there")
        return f"{len(folders)} folders can be written"
    parts = urlsplit(location.uri)
    store = s3_store(parts.netloc, location.storage_options, patience_s=_PATIENCE_S)
    version = LakeStore(location).open(CONTROL_LOG.name).version()
    key = f"{parts.path.strip('/')}/{CONTROL_LOG.name}/_delta_log/{version:020}.json".lstrip("/")
    try:
        same = bytes(obstore.get(store, key).bytes())
        obstore.put(store, key, same, mode="create")
    except AlreadyExistsError:
        return "writing is allowed, and the store honours If-None-Match"
    except (PermissionDeniedError, UnauthenticatedError):
        raise AccessDeniedError(
            f"{location.uri} may not be written", hint="TRS_AWS_* or the task's role needs s3:PutObject below it"
        ) from None
    except BaseError as error:
        raise wrap_error(error, location.uri) from None
    raise TrsError(
        f"{location.uri}: the store overwrites an object although told to refuse (If-None-Match)",
        hint="two workers would overwrite each other's commits: use a store that honours it",
    )


def store_time(location: LakeLocation) -> datetime:
    """The clock of the S3 server, in whole seconds. It answers so whoever asks. Raises UnavailableError."""
    options: Mapping[str, str] = location.storage_options
    endpoint = options.get("AWS_ENDPOINT_URL") or f"https://s3.{options.get('AWS_REGION', 'us-east-1')}.amazonaws.com"
    try:
        with urllib3.PoolManager(timeout=Timeout(_PATIENCE_S), retries=1) as http:
            told = http.request("HEAD", endpoint, redirect=False).headers.get("Date")
    except urllib3.exceptions.HTTPError:
        raise UnavailableError(f"{endpoint} does not answer", hint="check TRS_AWS_ENDPOINT, TRS_AWS_REGION") from None
    if told is None:
        raise UnavailableError(f"{endpoint} does not tell its time")
    return parsedate_to_datetime(told)
