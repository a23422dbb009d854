"""The worker's few numbers for CloudWatch, by which it is scaled and watched: lines of its JSON log.

CloudWatch makes metrics of log lines in its embedded metric format, so nothing else has to run and no right is needed
beyond writing the log. One line per minute, of namespace `trs`, with the consumer group as the one dimension:

    Lag                   records of this worker's partitions that are not committed, as `/metrics` has it; left out
                          while it has none, and before the brokers answered first
    WatermarkAgeSeconds   since the moment through which all its stages are complete; left out while it has no buckets
    DeadLetters           records refused since the line before
    Alarms                what needs a person: the source's structure, buckets that are parked
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from app.worker_state import WorkerState

log = structlog.get_logger("trs.metrics")

NAMESPACE = "trs"
DIMENSION = "Group"
UNITS = {"Lag": "Count", "WatermarkAgeSeconds": "Seconds", "DeadLetters": "Count", "Alarms": "Count"}
"""Every metric with its unit. Alarms and scaling in deploy/ name these."""
PERIOD_S = 60.0


class CloudWatchMetrics:
    """Turns what the pages know into one line per call; remembers what was counted already."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._dead_told = 0

    def line(self, now: datetime) -> dict[str, Any]:
        """The members of the log line: metrics, dimension, and what tells CloudWatch that they are ones."""
        looks = [activity.look(0) for activity in self._state.activities.values()]
        dead = sum(sum(look.totals.dead.values()) for look in looks)
        values: dict[str, float] = {
            "DeadLetters": dead - self._dead_told,
            "Alarms": len(self._state.alarms()),
        }
        self._dead_told = dead
        lag = self._state.lag()
        if lag:  # else it is not known: none would let the scaling take workers away
            values["Lag"] = sum(lag.values())
        complete = [look.known_through for look in looks if look.known_through is not None]
        if complete:
            values["WatermarkAgeSeconds"] = max(0.0, round((now - min(complete)).total_seconds(), 1))
        return {
            "_aws": {
                "Timestamp": int(now.timestamp() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": NAMESPACE,
                        "Dimensions": [[DIMENSION]],
                        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in values],
                    }
                ],
            },
            DIMENSION: self._state.group,
            **values,
        }

    async def run(self) -> None:
        """Logs a line every minute, on the minute, so that each minute of CloudWatch has one of each worker."""
        while True:
            await asyncio.sleep(PERIOD_S - time.time() % PERIOD_S)
            log.info("metrics", **self.line(datetime.now(UTC)))
