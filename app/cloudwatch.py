"""The worker's few numbers for CloudWatch, by which it is scaled and watched: lines of its JSON log.

CloudWatch makes metrics of log lines in its embedded metric format, so nothing else has to run and no right is needed
beyond writing the log. One line per minute, of namespace `trs`, with the consumer group as the one dimension:

    Lag                   records that this worker has not worked on yet, at the brokers and in its memory
    WatermarkAgeSeconds   since the oldest of its stages' last commits; left out while it has no buckets
    DeadLetters           records refused since the line before
    Alarms                what needs a person: the source's structure, buckets that are parked
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

log = structlog.get_logger("trs.metrics")

NAMESPACE = "trs"
DIMENSION = "Group"
UNITS = {"Lag": "Count", "WatermarkAgeSeconds": "Seconds", "DeadLetters": "Count", "Alarms": "Count"}
"""Every metric with its unit. Alarms and scaling in deploy/ name these."""
PERIOD_S = 60.0


class CloudWatchMetrics:
    """Turns the engine's status into one line per call; remembers what was counted already."""

    def __init__(self, group: str, status: Callable[[], Mapping[str, object]]) -> None:
        self._group = group
        self._status = status
        self._dead_told = 0

    def line(self, now: datetime) -> dict[str, Any]:
        """The members of the log line: metrics, dimension, and what tells CloudWatch that they are ones."""
        stages = [s for s in self._status().values() if isinstance(s, Mapping)]
        dead = sum(s["dead"] for s in stages)
        values: dict[str, float] = {
            "Lag": sum(s["waiting_records"] + s["behind_records"] for s in stages),
            "DeadLetters": dead - self._dead_told,
            "Alarms": sum(len(s["alarms"]) + len(s["parked"]) for s in stages),
        }
        self._dead_told = dead
        committed = [s["committed_at"] for s in stages if s["buckets"] and s["committed_at"] is not None]
        if committed:
            oldest = min(datetime.fromisoformat(at) for at in committed)
            values["WatermarkAgeSeconds"] = max(0.0, round((now - oldest).total_seconds(), 1))
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
            DIMENSION: self._group,
            **values,
        }

    async def run(self) -> None:
        """Logs a line every minute, on the minute, so that each minute of CloudWatch has one of each worker."""
        while True:
            await asyncio.sleep(PERIOD_S - time.time() % PERIOD_S)
            log.info("metrics", **self.line(datetime.now(UTC)))
