"""Names of hosts: whether there are any such, which is another matter than whether they answer."""

import socket
from collections.abc import Iterable


def all_unknown(hosts: Iterable[str]) -> bool:
    """Whether the resolver knows for certain that none of the names exists; False while it does not answer itself."""
    return all(_is_unknown(host) for host in hosts)


def host_of(server: str) -> str:
    """Of HOST:PORT, or of a host alone: Kafka's clients have a port for it."""
    return (server.rpartition(":")[0] or server).strip("[]")


def _is_unknown(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return error.errno == socket.EAI_NONAME
    except UnicodeError:  # a label that no name may have
        return True
    return False
