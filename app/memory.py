"""The memory of a worker, divided: DuckDB's part, what waits before the stages, what is fetched, what is sent.

    budget = program + state + inboxes + fetches + sends + what an epoch computes meanwhile (rows as Arrow, Parquet)
             [+ the process of upkeep, and that of the scheduled comparison, where the worker runs them]

Each part but the program's is a share of what is left, so that the process stays below its budget under any lag: what
does not fit is not fetched, or spills to disk.
"""

import ctypes
from dataclasses import dataclass

from app.doctor.machine import CONTAINER, memory_limit_mb
from app.settings import Settings
from connectors.faust_transport import FETCH_BYTES, PARTITION_BYTES
from connectors.kafka_producer import QUEUE_KBYTES
from processors.errors import SettingsError

_MB = 1_000_000
_M_ARENA_MAX = -8
"""glibc's malloc.h."""
PROGRAM_MB = 800
"""What a worker takes beyond the parts below, measured under a large lag: libraries, threads, what allocators keep."""
CHILD_MB = 300
"""The same of a process beside the worker, which has a quarter of its memory for state."""
CHILD_SHARE = 0.25
STATE_SHARE, INBOX_SHARE, FETCH_SHARE, SEND_SHARE = 0.5, 0.15, 0.05, 0.06
LEAST_STATE_MB = 150
"""With less, DuckDB cannot hold the blocks that a merge works on."""
_STAGES = 4
_TOPICS = 7
_BYTES_PER_EVENT = 1_500
"""What an event of an epoch takes, as Arrow, in DuckDB's results and in Parquet's row groups, all in all."""
_LEAST_PARTITION_BYTES = 64 << 10


@dataclass(frozen=True)
class MemoryPlan:
    """The parts. `inbox_bytes`: of each stage; `partition_bytes`, `fetch_bytes`: see ConsumerOptions."""

    state_mb: int
    max_events: int
    inbox_bytes: int = 400_000_000
    partition_bytes: int = PARTITION_BYTES
    fetch_bytes: int = FETCH_BYTES
    queue_kbytes: int = QUEUE_KBYTES


def share_heaps() -> None:
    """Lets all threads of this process share two heaps of glibc's, where it is glibc: each of a worker's 130 threads
    may have one of its own, of which nothing is given back. Has an effect on heaps that are still to be made."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def plan_of(settings: Settings) -> MemoryPlan:
    """The plan of a worker. Raises SettingsError where its budget is too small.

    The budget is TRS_MEMORY_BUDGET_MB; without it the container's limit, unless TRS_MEMORY_MB says what state may
    take; without either nothing bounds the sum of the parts.
    """
    budget_mb, whose = settings.memory_budget_mb, "TRS_MEMORY_BUDGET_MB"
    if budget_mb is None and "memory_mb" not in settings.model_fields_set:
        limit_mb, of = memory_limit_mb()
        if of == CONTAINER:
            budget_mb, whose = limit_mb, "the container's memory"
    if budget_mb is None:
        return MemoryPlan(settings.memory_mb, settings.epoch_max_events)
    children = int(settings.upkeep_budget_percent > 0) + int(settings.reconcile_every is not None)
    return divided(
        budget_mb, whose, partitions=settings.partitions, max_events=settings.epoch_max_events, children=children
    )


def divided(budget_mb: int, whose: str, *, partitions: int, max_events: int, children: int) -> MemoryPlan:
    """A budget in parts. `children`: processes that run beside the worker. Raises SettingsError for too small a one."""
    left_mb = (budget_mb - PROGRAM_MB - CHILD_MB * children) / (1 + STATE_SHARE * CHILD_SHARE * children)
    if left_mb * STATE_SHARE < LEAST_STATE_MB:
        raise SettingsError(
            f"{whose} is {budget_mb:,} MB, and a worker needs {least_mb(children):,}",
            hint="give it that; upkeep elsewhere (TRS_UPKEEP_BUDGET_PERCENT=0) takes"
            f" {least_mb(1) - least_mb(0):,} MB off",
        )
    left = int(left_mb * _MB)
    fetch = int(left * FETCH_SHARE)
    return MemoryPlan(
        state_mb=int(left_mb * STATE_SHARE),
        max_events=max(1, min(max_events, int(left * (1 - STATE_SHARE - INBOX_SHARE)) // _BYTES_PER_EVENT)),
        inbox_bytes=int(left * INBOX_SHARE) // _STAGES,
        partition_bytes=min(PARTITION_BYTES, max(_LEAST_PARTITION_BYTES, fetch // (_TOPICS * partitions))),
        fetch_bytes=min(FETCH_BYTES, fetch),
        queue_kbytes=min(QUEUE_KBYTES, int(left * SEND_SHARE) // 2 // 1024),
    )


def least_mb(children: int) -> int:
    """The smallest budget that is taken."""
    left_mb = LEAST_STATE_MB / STATE_SHARE
    return int(left_mb * (1 + STATE_SHARE * CHILD_SHARE * children)) + 1 + PROGRAM_MB + CHILD_MB * children
