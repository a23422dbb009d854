"""`trs lake rewind`: where a stage reads on in a topic, set back to an offset or a time that Kafka still holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.settings import Settings
from app.wiring import kafka_config, lake_location
from connectors.kafka import watermarks
from connectors.kafka_facts import ClusterLook
from connectors.lake import LakeStore
from connectors.rewind import rewind, stored_offsets
from processors.errors import UsageError
from processors.lake_tables import STAGE_LOGS
from processors.tables import STAGE_TOPICS, TOPICS, topic_of

_READ_BY = {topic: stage for stage, topics in STAGE_TOPICS.items() for topic in topics}


@dataclass(frozen=True)
class Rewound:
    """One partition: where it stood, and where the lake reads on."""

    topic: str
    partition: int
    before: int
    now: int


def rewind_topic(
    settings: Settings,
    name: str,
    *,
    partitions: Sequence[int],
    offset: int | None = None,
    time: datetime | None = None,
    dry_run: bool = False,
) -> list[Rewound]:
    """Sets partitions of a topic (none named: all that the lake has read) back. Exactly one of `offset` and `time`.

    A partition that stands before the place already is left alone. Raises UsageError for a topic that there is not, an
    offset that Kafka does not hold, and one beyond where the lake stands.
    """
    short = name.removeprefix(f"{settings.topic_prefix}.")
    if short not in TOPICS:
        raise UsageError(f"there is no topic {name}", hint=f"one of {', '.join(TOPICS)}")
    if (offset is None) == (time is None):
        raise UsageError("name either an offset or a time", hint="--to-offset 1200, or --to-time 2024-05-01T18:00Z")
    outside = [p for p in partitions if not 0 <= p < settings.partitions]
    if outside:
        raise UsageError(f"--partition {outside[0]}: there are 0 to {settings.partitions - 1}")
    topic, stage = topic_of(settings.topic_prefix, short), _READ_BY[short]
    store, log = LakeStore(lake_location(settings)), STAGE_LOGS[stage].log
    held = watermarks(kafka_config(settings), [topic])
    stood = stored_offsets(store, log, topic, settings.partitions)
    wanted = {p: stood[p] for p in (partitions or sorted(stood)) if p in stood}
    if time is not None:
        places = [(topic, p) for p in wanted]
        found = ClusterLook(kafka_config(settings)).offsets_since(places, int(time.timestamp() * 1000))
        goals = {p: found.get((topic, p), held[topic, p][1]) for p in wanted}
    else:
        goals = dict.fromkeys(wanted, offset or 0)
    for partition, goal in goals.items():
        start = held[topic, partition][0]
        if goal < start:
            raise UsageError(
                f"{topic}-{partition}: Kafka holds offsets from {start} on, not {goal}",
                hint=f"--to-offset {start} --partition {partition}; for what is older: `trs reconcile`",
            )
        if partitions and goal > wanted[partition]:
            raise UsageError(f"{topic}-{partition}: the lake stands at {wanted[partition]}, before {goal}")
    back = {p: goal for p, goal in goals.items() if goal < wanted[p]}
    if back and not dry_run:
        wanted |= rewind(store, stage=stage, log=log, topic=topic, offsets=back)
    return [Rewound(topic, p, wanted[p], goal) for p, goal in back.items()]
