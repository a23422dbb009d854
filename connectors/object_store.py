"""The object store of a lake as obstore opens it, with the options that delta-rs takes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, RetryConfig, S3Config

_CLIENT_OPTIONS = {"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url"}
_STORE_OPTIONS = {
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "default_region",
    "skip_signature",
    "virtual_hosted_style_request",
    "unsigned_payload",
    "imdsv1_fallback",
    "request_payer",
}


def s3_store(bucket: str, storage_options: Mapping[str, str], *, patience_s: float | None = None) -> S3Store:
    """The store that delta-rs would open with these options (`AWS_REGION`, `AWS_ENDPOINT_URL`, …).

    `patience_s`: how long a failed request is tried again; None: ten times, which is over in seconds where the
    connection is refused.
    """
    short = {k.lower().removeprefix("aws_"): v for k, v in storage_options.items()}
    config: dict[str, Any] = {k: v for k, v in short.items() if k in _STORE_OPTIONS}
    endpoint = short.get("endpoint_url", short.get("endpoint"))
    if endpoint is not None:
        config["endpoint"] = endpoint
    client: dict[str, Any] = {k: v for k, v in short.items() if k in _CLIENT_OPTIONS}
    client = {k: v.lower() == "true" if k.startswith("allow_") else v for k, v in client.items()}
    return S3Store(
        bucket,
        config=cast("S3Config", config),
        client_options=cast("ClientConfig", client),
        retry_config=None if patience_s is None else _retries(patience_s),
    )


def _retries(patience_s: float) -> "RetryConfig":
    backoff: BackoffConfig = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2}
    often = 1000 if patience_s > 0 else 0
    return {"max_retries": often, "retry_timeout": timedelta(seconds=patience_s), "backoff": backoff}
