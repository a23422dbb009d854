"""The stack's parts as containers, for machines with a Docker engine; settings are those of docker-compose.yml."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devstack.compose import init_script, services
from devstack.declared import Endpoints
from devstack.part import Part
from devstack.ports import assign
from devstack.stack import PARTS
from tests.waiting import wait_until

_CONTAINER_PORTS = {"kafka": 9092, "mariadb": 3306, "s3": 5000}


def docker_answers() -> bool:
    """Whether a Docker engine is there for this user."""
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env(timeout=3).ping()
    except DockerException:
        return False
    return True


@contextmanager
def running_containers(folder: Path) -> Iterator[dict[str, str]]:
    """Starts one container per part and yields the settings that lead to them."""
    numbers = assign(folder / "ports.json", needed=("kafka", "database", "s3"), in_use=())
    endpoints = Endpoints(**numbers)
    init = folder / "init.sql"
    init.write_text(init_script(), encoding="utf-8")
    declared = services(endpoints)["services"]
    with ExitStack() as started:
        for part in (kind(folder, numbers) for kind in PARTS):
            started.enter_context(_container(part, declared[part.name], init))
            wait_until(part.answers, timeout_s=90, what=f"the container of {part.name} answers")
        yield endpoints.environment


def _container(part: Part, service: dict[str, Any], init: Path) -> Any:
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(service["image"]).with_bind_ports(_CONTAINER_PORTS[part.name], part.port)
    for name, value in service.get("environment", {}).items():
        container.with_env(name, value)
    if "command" in service:
        container.with_command(service["command"])
    for config in service.get("configs", ()):
        container.with_volume_mapping(str(init), config["target"], "ro")
    return container
