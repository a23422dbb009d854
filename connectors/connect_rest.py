"""Kafka Connect's REST API, through urllib3: connectors are checked, written, watched, paused and deleted.

Every call may be repeated without harm, and is: a worker that is being started or rebalanced refuses (409, 503) for a
while. Answers are Kafka Connect's own words; a configuration's secrets are taken out of them by whoever prints them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import urllib3
from urllib3.util import Retry, Timeout, make_headers, parse_url

from processors.errors import (
    AccessDeniedError,
    ConnectError,
    RetryableError,
    TrsError,
    UnavailableError,
    UsageError,
)

_CONNECT_TIMEOUT_S = 8.0
_ANSWER_TIMEOUT_S = 95.0
"""Kafka Connect itself gives up after 90 s; a validation tries to reach the database."""
_RETRY = Retry(
    connect=2, read=1, other=0, status=6, status_forcelist=(409, 503), allowed_methods=None, backoff_factor=0.2,
    raise_on_status=False,
)  # fmt: skip
_SHOWN = 300


@dataclass(frozen=True)
class Problem:
    """An option that is refused, and why, in the words of Kafka Connect or of the connector."""

    option: str
    reason: str


@dataclass(frozen=True)
class Validation:
    """What was found; `known` are the names of all options that the connector knows."""

    problems: tuple[Problem, ...]
    known: frozenset[str]


@dataclass(frozen=True)
class TaskState:
    """The connector itself (`number` is None) or one of its tasks. `reason` is the first line of a failure's trace."""

    number: int | None
    state: str
    worker: str
    reason: str | None


@dataclass(frozen=True)
class ConnectorState:
    """A connector and its tasks; `states` are RUNNING, PAUSED, STOPPED, FAILED, UNASSIGNED or RESTARTING."""

    name: str
    parts: tuple[TaskState, ...]

    @property
    def states(self) -> frozenset[str]:
        return frozenset(p.state for p in self.parts)

    @property
    def runs(self) -> bool:
        """Whether the connector and at least one task run, and nothing else is the case."""
        return self.states == {"RUNNING"} and len(self.parts) > 1

    @property
    def failure(self) -> str | None:
        """Why it failed, if it did."""
        return next((p.reason or "no reason is given" for p in self.parts if p.state == "FAILED"), None)


class ConnectClient:
    """One Kafka Connect cluster. `url` is http(s)://[USER:PASSWORD@]HOST:PORT; all errors are ours and name it.

    `patience_s`: how long an answer may take, where somebody waits for it; it is asked for twice.
    """

    def __init__(self, url: str, *, patience_s: float | None = None) -> None:
        try:
            parts = parse_url(url)
        except urllib3.exceptions.LocationParseError:
            raise _bad_url() from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise _bad_url()
        self.where = f"Kafka Connect at {parts._replace(auth=None, query=None, fragment=None).url.rstrip('/')}"
        self._base = parts._replace(auth=None, query=None, fragment=None).url.rstrip("/")
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if parts.auth is not None:
            self._headers |= make_headers(basic_auth=unquote(parts.auth))
        if patience_s is None:
            retries, timeout = _RETRY, Timeout(connect=_CONNECT_TIMEOUT_S, read=_ANSWER_TIMEOUT_S)
        else:
            retries, timeout = _RETRY.new(connect=1, status=2), Timeout(patience_s)
        self._http = urllib3.PoolManager(retries=retries, timeout=timeout)

    def plugins(self) -> dict[str, str]:
        """The version of every connector that is installed, by class."""
        return {p["class"]: p.get("version", "") for p in self._call("GET", "/connector-plugins")}

    def validate(self, config: Mapping[str, str]) -> Validation:
        """Has the connector look at a configuration; it reaches for the database, too.

        Raises ConnectError when the connector is not installed.
        """
        kind = config["connector.class"]
        installed = self.plugins()
        if kind not in installed:
            raise ConnectError(
                f"{self.where} has no {kind}; it has {', '.join(sorted(installed)) or 'no connector'}",
                hint="install Debezium's connector in a folder of its own in the worker's plugin.path, and restart it",
            )
        answer = self._call("PUT", f"/connector-plugins/{quote(kind)}/config/validate", config)
        options = answer["configs"]
        values = [option["value"] for option in options if option["value"] is not None]  # None: not looked at
        return Validation(
            tuple(Problem(v["name"], _one_line(reason)) for v in values for reason in v["errors"]),
            frozenset(option["definition"]["name"] for option in options if option["definition"] is not None),
        )

    def unknown(self, name: str) -> UsageError:
        """The error for a connector that is not registered; it names those that are."""
        registered = ", ".join(self.names()) or "none"
        return UsageError(
            f"{self.where} has no connector {name}",
            hint=f"registered: {registered}; `trs connector register` registers the one of these settings",
        )

    def names(self) -> list[str]:
        """The connectors that are registered."""
        return sorted(self._call("GET", "/connectors"))

    def config(self, name: str) -> dict[str, str] | None:
        """A connector's configuration, with its secrets; None if it is not registered."""
        answer = self._call("GET", f"{_path(name)}/config", absent_is_none=True)
        return None if answer is None else dict(answer)

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Registers a connector, or gives it another configuration, which restarts it."""
        self._call("PUT", f"{_path(name)}/config", config)

    def state(self, name: str) -> ConnectorState | None:
        """What the connector and its tasks do; None if it is not registered, or not yet."""
        answer = self._call("GET", f"{_path(name)}/status", absent_is_none=True)
        if answer is None:
            return None
        parts = [(None, answer["connector"]), *((int(t["id"]), t) for t in answer["tasks"])]
        return ConnectorState(
            name, tuple(TaskState(n, p["state"], p["worker_id"], _cause(p.get("trace"))) for n, p in parts)
        )

    def position(self, name: str) -> dict[str, Any] | None:
        """Where the connector has read to, as it notes it itself; None before its first note.

        Notes that were made under an earlier name of the source stay, and say nothing of this one.
        """
        answer = self._call("GET", f"{_path(name)}/offsets", absent_is_none=True)
        source = (self.config(name) or {}).get("topic.prefix")
        for noted in [] if answer is None else answer.get("offsets", []):
            if noted["partition"].get("server") == source:
                return dict(noted["offset"])
        return None

    def pause(self, name: str) -> None:
        """Asks a connector to pause; it keeps its connections. Raises UsageError if it is not registered."""
        self._call("PUT", f"{_path(name)}/pause")

    def resume(self, name: str) -> None:
        """Asks a paused or stopped connector to go on. Raises UsageError if it is not registered."""
        self._call("PUT", f"{_path(name)}/resume")

    def restart_failed(self, name: str) -> None:
        """Starts again what has failed of a connector. Raises UsageError if it is not registered."""
        self._call("POST", f"{_path(name)}/restart?includeTasks=true&onlyFailed=true")

    def stop(self, name: str) -> None:
        """Asks a connector to end its tasks. Raises UsageError if it is not registered."""
        self._call("PUT", f"{_path(name)}/stop")

    def forget_position(self, name: str) -> None:
        """Deletes what a stopped connector has noted."""
        self._call("DELETE", f"{_path(name)}/offsets")

    def delete(self, name: str) -> None:
        """Removes a connector; its position stays. Raises UsageError if it is not registered."""
        self._call("DELETE", _path(name))

    def _call(
        self, method: str, path: str, body: Mapping[str, str] | None = None, *, absent_is_none: bool = False
    ) -> Any:
        """The answer's JSON, None for an empty one."""
        try:
            answer = self._http.request(
                method,
                self._base + path,
                body=None if body is None else json.dumps(body).encode(),
                headers=self._headers,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(f"{self.where} does not answer ({_network_reason(error)})", hint=_START) from None
        if answer.status == 404 and absent_is_none and _message(answer.data) is not None:
            return None
        if answer.status >= 300:
            raise self._refusal(answer.status, answer.data, path)
        try:
            return json.loads(answer.data) if answer.data else None
        except ValueError:
            raise UnavailableError(f"{self.where}: what answers there is no Kafka Connect", hint=_START) from None

    def _refusal(self, status: int, data: bytes, path: str) -> TrsError:
        """An HTTP status as one of our errors, with what Kafka Connect says."""
        said = _message(data)
        is_connect = said is not None
        said = said or f"HTTP status {status}"
        if status in (401, 403):
            return AccessDeniedError(f"{self.where} refuses access: {said}", hint="check the user in TRS_CONNECT")
        if status == 404 and is_connect and path.startswith("/connectors/"):
            return self.unknown(unquote(path.split("/")[2]))
        if status == 409:
            return RetryableError(f"{self.where} is busy: {said}", hint="try again")
        if status == 503:
            return UnavailableError(f"{self.where} is not ready: {said}", hint="try again")
        if not is_connect:
            return UnavailableError(f"{self.where}: what answers there is no Kafka Connect ({said})", hint=_START)
        return ConnectError(f"{self.where}: {said}", hint="its log says more; `trs connector validate` checks a config")


_START = "check TRS_CONNECT and that it runs; `trs devstack up --with connect` starts a local one"


def _bad_url() -> UsageError:
    return UsageError(
        "TRS_CONNECT is not the URL of a Kafka Connect", hint="http://HOST:PORT, or https://USER:PASSWORD@HOST"
    )


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _message(data: bytes) -> str | None:
    """What Kafka Connect says of a refusal; None if the answer is not its."""
    try:
        return _one_line(str(json.loads(data)["message"]))
    except (ValueError, KeyError, TypeError):
        return None


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _cause(trace: str | None) -> str | None:
    """What a Java trace says in the end: its last cause, else its first line."""
    if not trace:
        return None
    lines = trace.splitlines()
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return _one_line((causes or lines)[-1 if causes else 0])


def _network_reason(error: urllib3.exceptions.HTTPError) -> str:
    """What the network says, without the library's object addresses and retries."""
    reason: BaseException = error
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        reason = error.reason
    text = str(reason.args[-1]) if reason.args else ""
    return _one_line(text.rsplit(": ", 1)[-1] or type(reason).__name__)
