"""`trs doctor` on real parts: a lake that a worker filled, and what goes wrong with it."""

import json
from pathlib import Path
from typing import Any

import boto3
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from app.settings import Settings
from tests import stack_helpers
from tests.app.commands import trs


def settings_of(settings: Settings) -> dict[str, str]:
    """Variables that say the same; Kafka Connect is left at its default, as where there is none."""
    found = {k: v for k, v in stack_helpers.environment(settings).items() if k.startswith("TRS_")}
    del found["TRS_CONNECT"]
    return found


def looked(settings: Settings, **changes: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the checks by name."""
    told = trs("doctor", "--json", **settings_of(settings) | changes)
    assert "hush" not in told.out + told.err
    checks = json.loads(told.out)["checks"]
    return told.code, {check["name"]: check for check in checks}


def outcomes(checks: dict[str, Any]) -> dict[str, str]:
    return {name: check["outcome"] for name, check in checks.items()}


def said(check: Any) -> str:
    return " | ".join(f["said"] for f in check["findings"])


def test_doctor_with_wrong_settings_says_which_and_looks_at_the_rest() -> None:
    told = trs("doctor", TRS_PARTITIONS="many")
    assert told.code == 1
    assert "TRS_PARTITIONS" in told.out
    assert "ok            packages" in told.out
    assert "first see to: settings" in told.out


def test_a_filled_lake_is_looked_at_rewound_grown_beside_and_broken(stack_settings: Settings, tmp_path: Path) -> None:
    settings = stack_settings.model_copy(update={"partitions": 2, "idle_epoch_s": 600.0})
    extracts = stack_helpers.write_extracts(tmp_path / "extracts", invoices=20, seed=1)
    stack_helpers.feed(settings, extracts, run=1)
    stack_helpers.trs(settings, "worker", "--until-caught-up")
    bucket = settings.lake_uri.removeprefix("s3://").partition("/")[0]
    client = boto3.client(
        "s3",
        endpoint_url=settings.aws_endpoint,
        aws_access_key_id=settings.aws_access_key.get_secret_value() if settings.aws_access_key else None,
        aws_secret_access_key=settings.aws_secret_key.get_secret_value() if settings.aws_secret_key else None,
        region_name=settings.aws_region,
    )

    def keys() -> dict[str, str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {o["Key"]: f"{o['ETag']} {o['LastModified']}" for page in pages for o in page.get("Contents", ())}

    before = keys()
    code, checks = looked(settings, TRS_KAFFKA="x", TRS_KAFKA_USER="somebody", TRS_KAFKA_PASSWORD="hush")

    assert keys() == before, "doctor changed the lake"
    assert [name for name, o in outcomes(checks).items() if o == "failed"] == []
    assert code == 0
    assert "TRS_KAFFKA is not a setting" in said(checks["settings"])
    assert checks["settings"]["findings"][1]["advice"] == "did you mean TRS_KAFKA?"
    healthy = ("packages", "kafka", "newest records", "lake", "lake write access", "lake format")
    assert {name: outcomes(checks)[name] for name in healthy} == dict.fromkeys(healthy, "ok")
    assert said(checks["lake write access"]) == "writing is allowed, and the store honours If-None-Match"
    assert said(checks["positions"]).startswith("Kafka holds all that the lake reads next; 0 records wait")
    assert "2 of 2 buckets" in said(checks["lake buckets"])
    assert outcomes(checks)["lake clock"] == outcomes(checks)["source clock"] == "ok"
    assert "has no member" in said(checks["group"])  # the worker has ended
    assert "none of the declared tables" in said(checks["source tables"])

    # read a topic again: told first, then done, and the lake stands there
    environment = settings_of(settings)
    told = trs("lake", "rewind", "invoices", "--to-time", "2020-01-01", "--dry-run", **environment)
    assert "nothing was done" in told.out
    told = trs("lake", "rewind", "invoices", "--to-offset", "0", "--partition", "1", **environment)
    assert (told.code, "-1: " in told.out, " → 0, " in told.out) == (0, True, True)
    assert trs("lake", "rewind", "invoices", "--to-offset", "0", **environment).out.count("→") == 1
    assert trs("lake", "rewind", "nothing", "--to-offset", "0", **environment).code == 2

    # more partitions: refused by the topics, refused by the lake, and possible beside it
    new = {"TRS_PARTITIONS": "3", "TRS_TOPIC_PREFIX": f"{settings.topic_prefix}3"}
    assert trs("worker", "--until-caught-up", **environment | {"TRS_PARTITIONS": "3"}).code == 3
    told = trs("worker", "--until-caught-up", **environment | new)
    assert (told.code, "filled from topics of 2 partitions" in told.err) == (2, True)
    beside = str(tmp_path / "beside")
    assert trs("lake", "prepare", beside, "--partitions", "3", **environment).code == 0
    group = f"{settings.group}-3"
    grown = settings.model_copy(
        update={
            "lake": beside,
            "partitions": 3,
            "topic_prefix": new["TRS_TOPIC_PREFIX"],
            "group": group,
        }
    )
    stack_helpers.feed(grown, extracts, run=1)
    stack_helpers.trs(settings, "worker", "--until-caught-up")  # reads again what was rewound
    stack_helpers.trs(grown, "worker", "--until-caught-up")
    told = trs("lake", "compare", beside, **environment)
    assert (told.code, told.err) == (0, "")

    # another number of partitions in the settings; records that Kafka deleted before they were read
    stack_helpers.feed(settings, extracts, run=2)
    topic = f"{settings.topic_prefix}.invoices"
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    for future in admin.delete_records([TopicPartition(topic, p, -1) for p in range(2)]).values():
        future.result(timeout=30)
    code, checks = looked(settings, TRS_PARTITIONS="1")

    assert code == 1
    assert f"{topic} has 2 partitions, TRS_PARTITIONS is 1" in said(checks["topics"])
    assert "the lake has 2 buckets, TRS_PARTITIONS is 1" in said(checks["lake buckets"])
    assert outcomes(checks)["positions"] == "failed"
    assert f"{topic}-0: the lake stands at offset" in said(checks["positions"])
    assert "are gone" in said(checks["positions"])
