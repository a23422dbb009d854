"""What a part of the stack is: a server process with a folder, ports, a way to prepare it and to ask if it answers."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from devstack.declared import HOST

Advance = Callable[[int], None]
"""Takes the number of bytes that just arrived."""


class Part(ABC):
    """One server of the stack. `folder` holds its data, log and process record."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    """The first is the one that clients connect to."""
    ready_timeout_s: ClassVar[float] = 60.0
    stop_timeout_s: ClassVar[float] = 20.0
    after_crash: ClassVar[str] = "its data is on disk and is used again"
    """What a restart finds."""

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.folder = folder / self.name
        self.ports = ports

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def record(self) -> Path:
        return self.folder / "process.json"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def port(self) -> int | None:
        """The port that clients connect to; None before it was chosen."""
        return self.ports.get(self.port_names[0])

    @abstractmethod
    def download_bytes(self) -> int:
        """How much `fetch` would download."""

    @abstractmethod
    def fetch(self, advance: Advance) -> None:
        """Downloads what the part needs into the user's cache."""

    @abstractmethod
    def prepare(self) -> list[str | Path]:
        """Writes configuration, initialises an empty data folder, and returns the command to start."""

    def answers(self) -> bool:
        """Whether clients are served; what clients take for granted (database, bucket) exists then."""
        with socket.socket() as probe:
            probe.settimeout(1)
            listening = self.port is not None and probe.connect_ex((HOST, self.port)) == 0
        return listening and self.serves()

    @abstractmethod
    def serves(self) -> bool:
        """Asks the server, which listens by now, as a client would. Imports its client only here: `status` and `env`
        do without."""

    def environment(self) -> dict[str, str]:
        """Variables for the process besides the inherited ones."""
        return {}
