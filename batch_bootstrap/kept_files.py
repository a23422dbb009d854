"""Small files that survive a kill at any moment, and locks that end with their process."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processors.errors import RetryableError


def keep(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON values to a file, made with its folder if need be. Raises OSError.

    The file is replaced whole: it holds the old values or the new ones, and the new ones are on the disk when this
    returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the name may lead to the old file after a power cut
    finally:
        os.close(folder)


@contextmanager
def alone(lock: Path, *, what: str, hint: str) -> Iterator[None]:
    """Refuses a second `what` on this machine while one holds the lock, a file that is made. Raises RetryableError."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableError(f"another {what} runs on this machine", hint=hint) from None
        yield
