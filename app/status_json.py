"""What `/status.json` says: everything that the worker knows about itself, and nothing of the rows that it moves."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from app.worker_state import WorkerState
from processors.activity import RATE_S, Activity, EpochTrace
from trs import __version__

_EPOCHS = 20


def worker_json(state: WorkerState) -> dict[str, object]:
    """JSON-like; times are ISO-8601 in UTC, durations seconds."""
    loading, troubles = state.loading(), state.troubles()
    broker, now, memory = state.broker, datetime.now(UTC), state.memory()
    look = None if state.lake is None else state.lake.last
    return {
        "at": _iso(now),
        "version": __version__,
        "phase": state.shown_phase(loading),
        "loading": None if loading is None else asdict(loading),
        "group": state.group,
        "pid": os.getpid(),
        "started": _iso(state.started),
        "buckets": None if state.buckets is None else sorted(state.buckets),
        "live": not any(t.live for t in troubles),
        "ready": not troubles,
        "troubles": [t.sentence for t in troubles],
        "conditions": [str(t.condition) for t in troubles],
        "alarms": state.alarms(),
        "upkeep": state.upkeep(),
        "lake": None if look is None else look.as_json(),
        "lake_failure": None if state.lake is None else state.lake.failure,
        "memory": None if memory is None else asdict(memory),
        "broker": None if broker is None else {"silent_s": round(broker.silent_s, 1), "reason": broker.reason},
        "store": None if state.store is None else {"away": state.store.away},
        "lag": [{"topic": t, "partition": p, "records": n} for (t, p), n in sorted(state.lag().items())],
        "conflicts": [
            {"table": table, "outcome": outcome, "count": n}
            for (table, outcome), n in sorted(state.conflicts().items())
        ],
        "rate_s": RATE_S,
        "stages": [stage_json(activity, now) for activity in state.activities.values()],
        "engine": state.status(),
    }


def stage_json(activity: Activity, now: datetime) -> dict[str, object]:
    """One stage: what it does now, what it did lately, how much since the start."""
    look = activity.look(_EPOCHS)
    read, rows, derived = look.rates
    through = look.known_through
    return {
        "stage": look.stage,
        "topics": sorted({topic for topic, _ in look.positions}),
        "buckets": len(look.buckets),
        "running": None if look.running is None else {**asdict(look.running), "told": str(look.running)},
        "rests_s": None if look.rests_s is None else round(look.rests_s, 1),
        "known_through": None if through is None else _iso(through),
        "freshness_s": None if through is None else round(max(0.0, (now - through).total_seconds()), 1),
        "per_second": {"read": round(read, 2), "log_rows": round(rows, 2), "derived": round(derived, 2)},
        "totals": {**asdict(look.totals), "applied": look.totals.applied},
        "recent": [_epoch(trace) for trace in look.recent],
    }


def _epoch(trace: EpochTrace) -> Mapping[str, object]:
    return {
        "id": trace.id,
        "ended": _iso(trace.ended_at),
        "seconds": round(trace.seconds, 3),
        "read": trace.read,
        "log_rows": trace.log_rows,
        "derived": trace.derived,
        "dead": sum(trace.dead.values()),
        "commit": trace.commit_id,
        "source_delay_s": None if trace.source_delay_s is None else round(trace.source_delay_s, 1),
        "failure": trace.failure,
        "steps": [
            {"name": s.name, "detail": s.detail, "began_s": round(s.began_s, 3), "seconds": round(s.seconds, 4)}
            for s in trace.steps
        ],
    }


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
