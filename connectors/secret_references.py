"""References to secrets that AWS keeps, in their place: `secretsmanager:NAME`, `ssm:NAME`, or an ARN of either.

`#KEY` at the end takes one entry of a secret that is a JSON object. A secret is asked for once per process.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from processors.errors import AccessDeniedError, SettingsError, TrsError, UnavailableError

_REFERENCE = re.compile(
    r"(?:(?P<scheme>secretsmanager|ssm):)?"
    r"(?P<name>arn:[^:#]+:(?P<service>secretsmanager|ssm):(?P<region>[^:#]*):[^#]+|(?(scheme)[^#]+|(?!)))"
    r"(?:#(?P<key>.+))?"
)
_DENIED = ("AccessDenied", "UnrecognizedClient", "ExpiredToken", "InvalidSignature")


def is_reference(text: str) -> bool:
    """Whether a setting's text names a secret instead of being it."""
    return _REFERENCE.fullmatch(text) is not None


@cache
def resolve(reference: str, region: str) -> str:
    """The secret. `region` is asked unless an ARN names another.

    Raises SettingsError (no such secret or key), AccessDeniedError or UnavailableError, none with a secret in it.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise SettingsError(f"{reference!r} is no reference to a secret")
    service = parts["scheme"] or parts["service"]
    if parts["service"] not in (None, service):
        raise SettingsError(f"{reference}: the ARN is one of {parts['service']}", hint=f"write {parts['name']} alone")
    text = _asked(service, parts["name"], parts["region"] or region)
    if parts["key"] is None:
        return text
    try:
        return str(json.loads(text)[parts["key"]])
    except (ValueError, TypeError, KeyError):  # their texts quote the secret
        raise SettingsError(f"{reference}: the secret is no JSON object with that key") from None


def _asked(service: str, name: str, region: str) -> str:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

    limits = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    try:
        if service == "ssm":
            parameters = boto3.client("ssm", region_name=region, config=limits)
            return str(parameters.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
        secrets = boto3.client("secretsmanager", region_name=region, config=limits)
        answer = secrets.get_secret_value(SecretId=name)
        if "SecretString" not in answer:
            raise SettingsError(f"{service}:{name} is binary", hint="keep it as text")
        return str(answer["SecretString"])
    except ClientError as error:
        raise _wrapped(f"{service}:{name}", error.response["Error"]) from None
    except EndpointConnectionError as error:
        raise UnavailableError(f"{service}:{name}: {error}", hint="check TRS_AWS_REGION and the network") from None
    except BotoCoreError as error:
        raise AccessDeniedError(f"{service}:{name}: {error}", hint="give the task a role, or set AWS_PROFILE") from None


def _wrapped(what: str, error: Mapping[str, Any]) -> TrsError:
    code, message = (str(error.get(key, "")) for key in ("Code", "Message"))
    line = f"{what}: {code}: {' '.join(message.split())}"
    if any(word in code for word in _DENIED):
        return AccessDeniedError(line, hint="the role needs secretsmanager:GetSecretValue or ssm:GetParameter on it")
    return SettingsError(line, hint="check its name and TRS_AWS_REGION")
