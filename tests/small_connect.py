"""Kafka Connect's REST API over connectors that are data: what is registered is kept, and nothing is captured.

For what a command makes of Kafka Connect's answers. That these are its answers is seen on the real one in tests/stack.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.small_server import QuietHandler, SmallServer

_CLASSES = ("io.debezium.connector.mariadb.MariaDbConnector", "io.debezium.connector.mysql.MySqlConnector")
_STATES = {"pause": "PAUSED", "resume": "RUNNING", "stop": "STOPPED"}


@dataclass
class Kept:
    """A connector. `failure`: its task's trace; it fails again when it is restarted. `former`: what connectors of the
    same name noted under earlier names of the source."""

    config: dict[str, str]
    state: str = "RUNNING"
    position: dict[str, Any] | None = None
    failure: str | None = None
    former: list[dict[str, Any]] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        """What Kafka Connect answers when it is asked for the state."""
        task = {"id": 0, "state": self.state, "worker_id": "w"}
        if self.failure is not None:
            task |= {"state": "FAILED", "trace": self.failure}
        return {"connector": {"state": self.state, "worker_id": "w"}, "tasks": [task]}


@dataclass
class _World:
    """`position`, `failure`: those of a connector that is registered from now on. `asked`: METHOD PATH of every
    request, `written` of those that are to change something."""

    position: dict[str, Any] | None = None
    failure: str | None = None
    connectors: dict[str, Kept] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def written(self) -> list[str]:
        return [line for line in self.asked if not line.startswith("GET") and not line.endswith("validate")]


class SmallConnect(SmallServer):
    """A server of one's own; `world` is what it serves."""

    def __init__(self) -> None:
        self.world = _World()
        super().__init__(_Handler)


class _Handler(QuietHandler):
    server: SmallConnect

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].strip("/").split("/")
        self.server.world.asked.append(f"{self.command} {self.path}")
        status, answer = self._answered(path, json.loads(body) if body else {})
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answered(self, path: list[str], body: dict[str, str]) -> tuple[int, Any]:
        world = self.server.world
        if path[0] == "connector-plugins":
            return 200, {"configs": []} if self.command == "PUT" else [{"class": c, "version": "3"} for c in _CLASSES]
        if len(path) == 1:
            return 200, list(world.connectors)
        name, what = path[1], "".join(path[2:])
        connector = world.connectors.get(name)
        if (self.command, what) == ("PUT", "config"):
            if connector is None:
                world.connectors[name] = Kept(body, position=world.position, failure=world.failure)
            else:
                connector.config = body
            return 200, {"name": name, "config": body}
        if connector is None:
            return 404, {"error_code": 404, "message": f"Connector {name} not found"}
        if self.command == "GET":
            noted = list(connector.former)
            if connector.position is not None:
                server = {"server": connector.config["topic.prefix"]}
                noted.append({"partition": server, "offset": connector.position})
            return 200, {"config": connector.config, "status": connector.status(), "offsets": {"offsets": noted}}[what]
        if self.command == "DELETE" and what == "":
            del world.connectors[name]
        elif self.command == "DELETE":
            connector.position = None
        elif what in _STATES:
            connector.state = _STATES[what]
        return 202, None

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815
