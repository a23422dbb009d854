"""Checks of Kafka: brokers, topics, what the lake needs next of them, the group of workers."""

import time
from collections.abc import Iterator

from app.doctor.checks import Finding, failed, not_looked_at, ok, warning
from app.epoch_positions import positions_in_epochs
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import watermarks
from connectors.kafka_facts import ClusterLook, TopicFacts
from processors.lake_tables import EPOCHS
from processors.resume import PartitionLog, gap
from processors.tables import DERIVED_TOPICS, all_topics, topic_of

_DAY_MS = 86_400_000
_LEAST_RETENTION_MS = 3 * _DAY_MS
_FUTURE_S = 120.0
_WAY_OUT = "docs/runbooks/offset-gap.md says how to go on"


def look_at_brokers(settings: Settings) -> list[Finding]:
    """Do they answer, and which are they."""
    facts = ClusterLook(kafka_config(settings)).cluster()
    level = "" if facts.level is None else f", protocol {facts.level}"
    findings = [ok(f"{settings.kafka} answers: cluster {facts.cluster_id}, {len(facts.brokers)} brokers{level}")]
    if len(facts.brokers) < settings.replication:
        findings.append(
            failed(
                f"TRS_REPLICATION={settings.replication} with {len(facts.brokers)} brokers: no topic can be made",
                "lower TRS_REPLICATION, or find out where the other brokers are",
            )
        )
    return findings


def look_at_topics(settings: Settings) -> list[Finding]:
    """Are they there, with the partitions of the installation, and do they keep what the lake may still need."""
    names = all_topics(settings.topic_prefix)
    facts = ClusterLook(kafka_config(settings)).topics(names)
    missing = [name for name in names if name not in facts]
    findings = [f for topic in facts.values() for f in judge_topic(topic, settings)]
    if missing:
        findings.append(
            warning(f"topics missing: {', '.join(missing)}", "`trs worker` or `trs bootstrap snapshot` makes them")
        )
    if not findings:
        kept = min((t.retention_ms for t in facts.values() if t.retention_ms >= 0), default=None)
        told = "for ever" if kept is None else f"{kept / _DAY_MS:g} days or more"
        findings.append(ok(f"{len(facts)} topics of {settings.partitions} partitions, records are kept {told}"))
    return findings


def judge_topic(topic: TopicFacts, settings: Settings) -> Iterator[Finding]:
    """What is wrong with one topic."""
    if topic.partitions != settings.partitions:
        yield failed(
            f"{topic.name} has {topic.partitions} partitions, TRS_PARTITIONS is {settings.partitions}",
            "set TRS_PARTITIONS to the installation's number; another one needs a lake of its own:"
            " docs/runbooks/grow-partitions.md",
        )
    if "compact" in topic.cleanup_policy:
        yield failed(
            f"{topic.name} is compacted (cleanup.policy={topic.cleanup_policy}), which loses row events",
            "set its cleanup.policy to delete, then `trs reconcile` finds what was lost",
        )
    if topic.leaderless:
        yield failed(f"{topic.name}: partitions {_numbers(topic.leaderless)} have no leader", "bring the brokers back")
    if topic.behind:
        yield warning(
            f"{topic.name}: of partitions {_numbers(topic.behind)} a copy is not in sync", "look after the brokers"
        )
    if topic.replicas < settings.replication:
        yield warning(
            f"{topic.name} has {topic.replicas} copies, TRS_REPLICATION is {settings.replication}",
            "kafka-reassign-partitions adds copies",
        )
    if topic.replicas > 1 and topic.min_in_sync < 2:
        yield warning(
            f"{topic.name}: min.insync.replicas is {topic.min_in_sync}: one broker alone may acknowledge a record",
            "set it to 2",
        )
    if 0 <= topic.retention_ms < _LEAST_RETENTION_MS:
        yield warning(
            f"{topic.name} keeps records for {topic.retention_ms / 3_600_000:g} h: a lake that stands still for longer"
            " loses what comes next",
            f"set its retention.ms to {7 * _DAY_MS} or more",
        )
    if topic.retention_bytes >= 0:
        yield warning(
            f"{topic.name} keeps {topic.retention_bytes:,} bytes per partition (retention.bytes): a burst shortens"
            " the time in which a worker may stand still",
            "set retention.bytes to -1 and let retention.ms decide",
        )


def _numbers(partitions: tuple[int, ...]) -> str:
    shown = ", ".join(str(p) for p in partitions[:8])
    return shown if len(partitions) <= 8 else f"{shown}, … ({len(partitions)})"


def look_at_positions(settings: Settings) -> list[Finding]:
    """Does Kafka still hold what the lake reads next, and for how long (R9)."""
    with LakeSession(settings) as session:
        session.create_views([EPOCHS.name])
        positions = positions_in_epochs(session)
    look = ClusterLook(kafka_config(settings))
    facts = look.topics(all_topics(settings.topic_prefix))
    held = watermarks(kafka_config(settings), list(facts))
    gaps, waiting = [], {}
    for (topic, partition), (start, end) in sorted(held.items()):
        stored = positions.get((topic, partition))
        found = gap(stored, PartitionLog(topic, partition, start, end, facts[topic].topic_id))
        if found is not None:
            gaps.append(found)
        elif (0 if stored is None else stored.next_offset) < end:
            waiting[topic, partition] = 0 if stored is None else stored.next_offset
    findings = [failed(found, _WAY_OUT) for found in gaps[:5]]
    if len(gaps) > 5:
        findings.append(failed(f"and {len(gaps) - 5} more partitions lack what comes next", _WAY_OUT))
    findings += _expiring(look, facts, waiting)
    lag = sum(held[place][1] - offset for place, offset in waiting.items())
    return findings or [ok(f"Kafka holds all that the lake reads next; {lag:,} records wait")]


def _expiring(look: ClusterLook, facts: dict[str, TopicFacts], waiting: dict[tuple[str, int], int]) -> list[Finding]:
    """Records that wait and have passed half of their topic's retention."""
    now_ms, findings = int(time.time() * 1000), []
    for name, topic in facts.items():
        places = {place: offset for place, offset in waiting.items() if place[0] == name}
        if not places or topic.retention_ms < 0:
            continue
        young = look.offsets_since(list(places), now_ms - topic.retention_ms // 2)
        old = [p for place, offset in places.items() for p in (place[1],) if young.get(place, offset + 1) > offset]
        if old:
            findings.append(
                warning(
                    f"{name}: in partitions {_numbers(tuple(old))} records wait that are older than half of the"
                    f" retention of {topic.retention_ms / _DAY_MS:g} days",
                    "start workers, or raise retention.ms before they are deleted",
                )
            )
    return findings


def look_at_newest_records(settings: Settings) -> list[Finding]:
    """Kafka does not tell its clock; the records tell those of who wrote them."""
    look = ClusterLook(kafka_config(settings))
    topics = [topic_of(settings.topic_prefix, name) for name in DERIVED_TOPICS]
    topics = [name for name in all_topics(settings.topic_prefix) if name not in topics]
    facts = look.topics(topics)
    places = [(name, partition) for name, topic in facts.items() for partition in range(topic.partitions)]
    newest = look.newest_ms(places)
    if not newest:
        return [not_looked_at("no record tells a time yet")]
    place, time_ms = max(newest.items(), key=lambda entry: entry[1])
    ahead_s = time_ms / 1000 - time.time()
    if ahead_s > _FUTURE_S:
        return [
            warning(
                f"{place[0]}-{place[1]} holds a record that is {ahead_s:,.0f} s ahead of the clock here",
                "set the clocks of producer and worker (NTP): retention and freshness follow them",
            )
        ]
    return [ok(f"the newest row event is {max(0.0, -ahead_s):,.0f} s old")]


def look_at_group(settings: Settings) -> list[Finding]:
    """Do workers run, anywhere."""
    facts = ClusterLook(kafka_config(settings)).group(settings.group)
    if not facts.members:
        return [warning(f"group {settings.group} has no member: no worker runs", "start one: `trs worker`")]
    idle = sum(1 for _, partitions in facts.members if partitions == 0)
    told = f"group {settings.group}: {len(facts.members)} workers, {facts.state.lower()}"
    if idle and facts.state == "STABLE":
        return [
            warning(
                f"{told}, {idle} of them without a partition",
                f"more workers than TRS_PARTITIONS={settings.partitions} do nothing",
            )
        ]
    return [ok(told)]
