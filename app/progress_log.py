"""What the log tells while a worker waits or loads, so that it is never silent for long. Both go on until cancelled."""

import asyncio
import time

import structlog

from app.membership import EngineMembership
from app.settings import Settings
from processors.ports import Engine

log = structlog.get_logger("trs.worker")

_LOOK_S = 0.5
_GROUP_IS_SLOW_S = 4.0
"""Brokers let the first member of a group wait for 3 s already (group.initial.rebalance.delay.ms)."""
_STILL_SLOW_S = 10.0
_LOADS_LONG_S = 1.0
_STILL_LOADS_S = 5.0


async def tell_waiting(settings: Settings, membership: EngineMembership) -> None:
    """Says why nothing happens while the group gives us no partitions: after 4 s, then every 10 s."""
    told_s = -_STILL_SLOW_S
    while True:
        await asyncio.sleep(_LOOK_S)
        since_s, now_s = membership.waiting_since_s, time.monotonic()
        if since_s is not None and now_s - since_s >= _GROUP_IS_SLOW_S and now_s - told_s >= _STILL_SLOW_S:
            told_s = now_s
            log.info(
                "waiting for the consumer group: a member that died counts until its session ends, "
                "a busy one finishes its commit",
                group=settings.group,
                seconds=round(now_s - since_s),
                session_s=settings.session_timeout_s,
            )


async def tell_loading(engine: Engine) -> None:
    """Says how far the loading of state is, of a stage that needs long: after a second, then every 5 s.

    The engine says when a stage has its state.
    """
    stage, due_s = "", 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        loading = engine.loading
        if loading is None:
            stage = ""
            continue
        if loading.stage != stage:
            stage, due_s = loading.stage, _LOADS_LONG_S
        if loading.seconds >= due_s:
            due_s = loading.seconds + _STILL_LOADS_S
            log.info(
                "loading state",
                stage=loading.stage,
                buckets=loading.buckets,
                folded_rows=loading.folded_rows,
                log_rows=loading.log_rows,
                step=loading.step,
                done=f"{loading.share:.0%}",
                seconds=round(loading.seconds, 1),
            )
