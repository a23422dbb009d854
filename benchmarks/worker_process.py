"""A worker in a process of its own, as the benchmarks of a whole worker start it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.settings import Settings


def worker_environment(settings: Settings, home: Path, *, interval_s: float | str) -> dict[str, str]:
    """The environment of a worker that reads the settings' topics into their lake, in a consumer group of their own."""
    return dict(os.environ) | {
        "TRS_KAFKA": settings.kafka,
        "TRS_TOPIC_PREFIX": settings.topic_prefix,
        "TRS_GROUP": settings.topic_prefix,
        "TRS_LAKE": settings.lake,
        "TRS_HOME": str(home),
        "TRS_WEB_PORT": "0",
        "TRS_EPOCH_INTERVAL_S": str(interval_s),
    }


@contextmanager
def running_worker(
    environment: dict[str, str], *options: str, log: Path, main: str = "-m app.cli.main"
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `trs worker`, its standard error in `log`; ended with the block if it still runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, *main.split(), "worker", *options], env=environment, stderr=stderr)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                process.wait()
