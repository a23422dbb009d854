"""A folder below TRS_HOME for what a worker spills: its own, and gone with it, also when it was killed."""

import atexit
import fcntl
import os
import shutil
import uuid
from pathlib import Path

_LOCK = ".lock"


def make_spill_folder(home: Path) -> Path:
    """A new folder, removed at this process's orderly end; those of workers that ended in another way are removed now.

    A lock beside each folder is held as long as its process lives, whatever ends it.
    """
    home.mkdir(parents=True, exist_ok=True)
    for lock in home.glob(f"spill-*{_LOCK}"):
        _remove_if_left(lock)
    folder = home / f"spill-{uuid.uuid4().hex[:12]}"
    lock = folder.with_suffix(_LOCK)
    new = folder.with_suffix(".new")
    held = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    new.rename(lock)  # locked before others can find it: nobody takes it for one that was left
    folder.mkdir()
    atexit.register(_remove, folder, lock)
    return folder


def _remove_if_left(lock: Path) -> None:
    try:
        held = os.open(lock, os.O_RDWR)
    except FileNotFoundError:  # its process ends just now
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        _remove(lock.with_suffix(""), lock)
    finally:
        os.close(held)


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
