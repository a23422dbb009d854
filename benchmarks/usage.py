"""What a process has used, as the kernel tells it; needs nothing but the standard library."""

import mmap
import os
import time
from pathlib import Path


def peak_rss_mb(pid: int | None = None) -> float:
    """The peak memory of a process, by default this one; 0 when it has ended and is not waited for yet.

    What wait4 and getrusage tell is the parent's, from before the exec, where that was more.
    """
    return _status_mb("VmHWM", pid)


def rss_mb() -> float:
    """The memory of this process now."""
    return _status_mb("VmRSS", None)


def _status_mb(field: str, pid: int | None) -> float:
    status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in status if line.startswith(field)), 0.0)


def cpu_seconds(pid: int) -> float:
    """The CPU time of a running process up to now, of all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def fresh_memory_s_per_gb(size_mb: int = 256) -> float:
    """Seconds to touch every page of so much memory for the first time, per GB (2**30 bytes)."""
    size = size_mb * 2**20
    with mmap.mmap(-1, size) as memory:
        pages = memoryview(memory)[:: mmap.PAGESIZE]
        started = time.perf_counter()
        pages[:] = bytes(len(pages))
        seconds = time.perf_counter() - started
        pages.release()
    return seconds * 2**30 / size


def busy_seconds() -> float:
    """The CPU time that everything on this machine has used since its start, of all cores together."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")
