"""Ports of a stack: free ones, chosen once, remembered in a file, chosen anew when somebody else took them."""

import json
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from devstack.declared import HOST
from processors.errors import UnavailableError

_RANGE = range(20_000, 32_000)
"""Below the range that systems give to outgoing connections, so that a sleeping stack rarely loses its ports."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def remembered(file: Path) -> dict[str, int]:
    """The ports in the file by name; empty if there is none."""
    try:
        ports: dict[str, int] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return ports


def assign(file: Path, *, needed: Iterable[str], in_use: Iterable[str]) -> dict[str, int]:
    """The port of every name, written to the file. Names of `in_use` keep theirs: our own part listens there."""
    ports, fixed = remembered(file), set(in_use)
    for name in needed:
        if name not in fixed and not (name in ports and is_free(ports[name])):
            ports[name] = _choose(taken=set(ports.values()))
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(ports, indent=1), encoding="utf-8")
    temporary.replace(file)
    return ports


def _choose(*, taken: set[int]) -> int:
    for port in random.sample(_RANGE, 200):
        if port not in taken and is_free(port):
            return port
    raise UnavailableError(f"no free port between {_RANGE.start} and {_RANGE.stop - 1}", hint="end other programs")
