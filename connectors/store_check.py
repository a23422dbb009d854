"""Whether the place of a lake can be used, asked once and briefly before anything is opened there."""

from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError

from connectors.hosts import all_unknown
from connectors.lake import LakeLocation, wrap_error
from connectors.object_store import s3_store
from processors.errors import AccessDeniedError, SettingsError, UnavailableError

_PATIENCE = {"timeout": "5s", "connect_timeout": "2500ms"}
_ELSEWHERE = ("BareRedirect", "PermanentRedirect", "AuthorizationHeaderMalformed")
"""What S3 answers for a bucket of another region (`Error responses`, S3's manual); the first is obstore's own word."""


def check_store(location: LakeLocation) -> None:
    """Returns when the bucket answers, at once for a folder.

    Raises UnavailableError where waiting may help, SettingsError for a bucket or a host that does not exist and
    for a bucket of another region, and AccessDeniedError.
    """
    parts = urlsplit(location.uri)
    if parts.scheme != "s3":
        return
    endpoint = location.storage_options.get("AWS_ENDPOINT_URL")
    where = f"S3 at {endpoint or 'AWS'}, bucket {parts.netloc}"
    store = s3_store(parts.netloc, {**location.storage_options, **_PATIENCE}, patience_s=0)
    try:
        next(iter(obstore.list(store, f"{parts.path.strip('/')}/", chunk_size=1)), None)
    except BaseError as error:
        if "NoSuchBucket" in str(error):
            raise SettingsError(
                f"TRS_LAKE: {where}: there is no such bucket", hint="make it, or name another"
            ) from None
        if any(word in str(error) for word in _ELSEWHERE):
            region = location.storage_options.get("AWS_REGION")
            raise SettingsError(
                f"TRS_AWS_REGION: {where}: the bucket is in another region than {region}", hint="name its own"
            ) from None
        if endpoint is not None and all_unknown([urlsplit(endpoint).hostname or ""]):
            raise SettingsError(
                f"TRS_AWS_ENDPOINT: there is no host of that name: {endpoint}", hint="correct it"
            ) from None
        told = wrap_error(error, where)
        if isinstance(told, AccessDeniedError):
            raise told from None
        raise UnavailableError(
            f"{where} does not answer", hint="check TRS_LAKE, TRS_AWS_ENDPOINT and the store"
        ) from None
