"""The templates: as declared, as CloudFormation takes them, and never a danger to the lake."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint

from app.backup import place_of_month
from app.cloudwatch import UNITS
from app.settings import Settings, variable
from deploy.__main__ import FOLDER, TEMPLATES, differences
from deploy.containers import environment, secrets
from deploy.roles import task_role
from deploy.service import SIZES
from deploy.tasks import SCHEDULED, STOP_TIMEOUT_S, TASKS, TRANSLATOR, WORKER
from processors.lake_tables import LAKE_TABLES
from processors.tables import all_topics
from tests.deploy.iam import VALUES, actions, allows, listed, resolved

BACKUP = next(task for task in TASKS if task.backs_up)


def resources(name: str, kind: str) -> dict[str, Any]:
    """Resources of a kind in a template, by logical id."""
    found = TEMPLATES[name]()["Resources"]
    return {logical: r for logical, r in found.items() if r["Type"] == kind}


def test_files_are_as_declared() -> None:
    assert differences() == [], "python -m deploy"
    assert {path.name for path in FOLDER.glob("*.json")} == TEMPLATES.keys()


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_is_what_cloudformation_takes(name: str) -> None:
    problems = lint((FOLDER / name).read_text(), config=ManualArgs(regions=["eu-west-1"]))
    assert [str(p) for p in problems] == []


def test_no_lifecycle_rule_deletes_a_current_object_of_the_lake() -> None:
    lake = resources("foundation.json", "AWS::S3::Bucket")["Lake"]
    assert lake["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    harmless = {
        "Id",
        "Status",
        "AbortIncompleteMultipartUpload",
        "NoncurrentVersionExpiration",
        "ExpiredObjectDeleteMarker",
    }
    for rule in lake["Properties"]["LifecycleConfiguration"]["Rules"]:
        assert rule.keys() <= harmless


def test_backups_of_a_month_share_files_that_no_backup_younger_than_promised_loses() -> None:
    body = TEMPLATES["backups.json"]()
    place = body["Resources"]["Place"]["Properties"]
    assert place["VersioningConfiguration"] == {"Status": "Enabled"}
    (days,) = [r["ExpirationInDays"] for r in place["LifecycleConfiguration"]["Rules"] if "ExpirationInDays" in r]
    assert days == {"Ref": "ExpireDays"}
    assert "--monthly" in BACKUP.command
    months = {place_of_month("x", datetime(2028, 1, 1, tzinfo=UTC) + timedelta(days=day)) for day in range(366)}
    assert len(months) == 12
    longest = max(monthrange(2028, month)[1] for month in range(1, 13))
    assert body["Parameters"]["ExpireDays"]["MinValue"] > longest


def test_another_account_may_look_and_add_to_the_place_of_backups_and_delete_nothing() -> None:
    kinds = {"AWS::S3::BucketPolicy": "PolicyDocument", "AWS::KMS::Key": "KeyPolicy"}
    documents = [
        resolved(body["Properties"][name], VALUES | {"LakeAccount": "210987654321"})
        for kind, name in kinds.items()
        for body in resources("backups.json", kind).values()
    ]
    allowed = {
        action
        for document in documents
        for statement in document["Statement"]
        if "210987654321" in str(statement["Principal"])
        for action in listed(statement["Action"])
    }
    assert allowed == actions(task_role(BACKUP))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            ("foundation.json", kind)
            for kind in ("AWS::S3::Bucket", "AWS::KMS::Key", "AWS::Glue::Database", "AWS::ECR::Repository")
        ),
        ("backups.json", "AWS::S3::Bucket"),
        ("backups.json", "AWS::KMS::Key"),
    ],
)
def test_data_outlives_its_stack(name: str, kind: str) -> None:
    found = resources(name, kind)
    assert found
    for body in found.values():
        assert (body["DeletionPolicy"], body["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


@pytest.mark.parametrize("name", ["foundation.json", "backups.json"])
def test_buckets_are_closed_encrypted_and_asked_over_tls_alone(name: str) -> None:
    buckets = resources(name, "AWS::S3::Bucket")
    for bucket in buckets.values():
        assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())
        (rule,) = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    policies = resources(name, "AWS::S3::BucketPolicy").values()
    for policy in policies:
        refusal = policy["Properties"]["PolicyDocument"]["Statement"][0]
        assert (refusal["Effect"], refusal["Action"]) == ("Deny", "s3:*")
        assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert {p["Properties"]["Bucket"]["Ref"] for p in policies} == buckets.keys()


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_variables_of_a_task_are_settings_and_secrets_are_no_plain_text(task: Any) -> None:
    known = {variable(name): field for name, field in Settings.model_fields.items()}
    assert environment(task).keys() | secrets(task).keys() <= known.keys()
    assert not environment(task).keys() & secrets(task).keys()
    hidden = {name for name, field in known.items() if "SecretStr" in str(field.annotation)}
    assert not environment(task).keys() & hidden


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_command_of_a_task_is_one_of_ours(task: Any) -> None:
    from typer.testing import CliRunner

    from app.cli.main import build

    told = CliRunner().invoke(build(), [*task.command, "--help"])
    assert told.exit_code == 0, told.output
    plain = [part for part in task.command if not part.startswith("-")]
    assert " ".join(plain[: 2 if task.command[0] in ("bootstrap", "lake") else 1]) in told.output


def test_containers_may_write_to_their_volumes_alone() -> None:
    for body in resources("service.json", "AWS::ECS::TaskDefinition").values():
        (container,) = body["Properties"]["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"] is True
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
        assert container["StopTimeout"] == STOP_TIMEOUT_S


def test_each_task_has_two_roles_of_its_own() -> None:
    definitions = resources("service.json", "AWS::ECS::TaskDefinition").values()
    roles = [
        r["Properties"][kind]["Fn::GetAtt"][0] for r in definitions for kind in ("TaskRoleArn", "ExecutionRoleArn")
    ]
    assert len(set(roles)) == 2 * len(TASKS)


def test_tables_that_tasks_write_are_the_lakes() -> None:
    for task in TASKS:
        assert set(task.writes) <= LAKE_TABLES.keys()
    assert [t.name for t in TASKS if t.deletes] == ["maintain"]


def test_sizes_are_such_as_fargate_has() -> None:
    steps = {1024: range(2048, 8193, 1024), 2048: range(4096, 16385, 1024), 4096: range(8192, 30721, 1024)}
    steps[8192] = range(16384, 61441, 4096)
    for cpu, memory in (*SIZES.values(), *((t.cpu, t.memory_mb) for t in SCHEDULED)):
        assert memory in steps[cpu]


def test_every_metric_of_the_worker_is_watched() -> None:
    watched = {a["Properties"]["MetricName"] for a in resources("service.json", "AWS::CloudWatch::Alarm").values()}
    assert UNITS.keys() <= watched


def test_role_that_signs_in_to_kafka_by_itself_may_do_what_its_clients_do_and_no_more() -> None:
    """Held against what the code names: topics, groups, transactional ids."""
    cluster = "arn:aws:kafka:eu-west-1:123456789012"
    values = VALUES | {
        "KafkaClusterName": "c",
        "KafkaClusterUuid": "u",
        "TopicPrefix": "aurora.trs",
        "DmsTopicPrefix": "dms.trs",
        "Group": "trs-worker",
    }
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    translator = f"{defaults['topic_prefix']}.{defaults['dms_group']}.0"
    for task in TASKS:
        role = task_role(task)

        def may(action: str, resource: str, role: Any = role) -> bool:
            return allows(role, f"kafka-cluster:{action}", f"{cluster}:{resource}", values=values)

        assert may("Connect", "cluster/c/u") == may("WriteDataIdempotently", "cluster/c/u") == task.kafka
        for topic in all_topics(defaults["topic_prefix"]):
            assert may("ReadData", f"topic/c/u/{topic}") == may("CreateTopic", f"topic/c/u/{topic}") == task.kafka
        assert may("ReadData", "topic/c/u/dms.trs.skus") == (task is TRANSLATOR)
        assert may("AlterGroup", f"group/c/u/{defaults['dms_group']}") == (task is TRANSLATOR)
        assert may("AlterGroup", f"group/c/u/{defaults['group']}") == (task.kafka and task is not TRANSLATOR)
        assert may("AlterTransactionalId", "transactional-id/c/u/trs-bootstrap-9") == task.database
        assert may("AlterTransactionalId", f"transactional-id/c/u/{translator}") == (task is TRANSLATOR)
        assert not may("DeleteTopic", f"topic/c/u/{topic}")
        assert not may("ReadData", "topic/c/u/another")


def test_secrets_of_the_brokers_user_are_read_only_where_there_is_one() -> None:
    body = resources("service.json", "AWS::IAM::Role")["WorkerStartRole"]
    (reading,) = [
        s for s in body["Properties"]["Policies"][0]["PolicyDocument"]["Statement"] if "ReadSecrets" in str(s)
    ]
    condition, with_iam, with_user = reading["Fn::If"]
    assert (condition, with_iam) == ("IamLogin", {"Ref": "AWS::NoValue"})
    assert with_user["Resource"] == [{"Ref": "KafkaSecret"}]


def test_worker_is_never_given_the_database() -> None:
    assert "TRS_DATABASE" not in secrets(WORKER)


def test_connector_in_msk_connect_is_the_one_that_the_command_registers() -> None:
    from connectors.debezium import ConnectorPlan, Flavour, render
    from connectors.kafka_config import KafkaConfig
    from connectors.mysql import DatabaseUrl

    values = {
        "SourceName": "aurora",
        "TopicPrefix": "aurora.trs",
        "Partitions": "64",
        "Replication": "3",
        "DatabaseHost": "db.example",
        "DatabaseName": "trs",
        "KafkaBootstrapIam": "b-1:9098",
    }
    options = resources("debezium.json", "AWS::KafkaConnect::Connector")["Connector"]["Properties"]
    template = resolved(options["ConnectorConfiguration"], values)
    plan = ConnectorPlan(
        name="trs-aurora",
        source_name="aurora",
        topic_prefix="aurora.trs",
        partitions=64,
        flavour=Flavour.AURORA,
        database=DatabaseUrl("db.example", 3306, "u", "p", "trs"),
        kafka=KafkaConfig("b-1:9098", replication=3),
        snapshot="no_data",
    )
    registered = render(plan)
    routed = {name: value for name, value in template.items() if name.startswith("transforms")}
    differing = {name for name, value in registered.items() if template.get(name) != value}
    # The route is there even where it leads to the topic itself; the rest is a secret, an id, or a property of its own.
    assert differing == {"name", "database.user", "database.password", "database.server.id"}
    assert routed["transforms.route.replacement"] == "aurora.trs.$1"
    further = template.keys() - registered.keys() - routed.keys()
    own = ("database.ssl.truststore", "database.ssl.truststore.password", "config.action.reload")
    assert all(n.startswith("schema.history.internal.") or n in own for n in further)
    assert template["database.ssl.mode"] == "verify_identity"
    assert template["database.password"]["Fn::Join"][1][0] == "${secretManager:"
