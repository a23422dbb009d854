"""Roles have what the source asks for, and nothing else."""

import pytest

from deploy.actions import LAKE, START, UnknownServiceError, actions_of, boto3_actions
from deploy.roles import (
    CONNECT,
    GROUPS,
    IDEMPOTENT,
    REFERENCE_ACTIONS,
    TOPICS,
    TRANSACTIONS,
    execution_role,
    task_role,
)
from deploy.tasks import GLUE_ACTIONS, SCHEDULED, TASKS, Task
from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
from tests.deploy.iam import VALUES, actions, allows

NOT_AT_WORK = {"glue:CreateDatabase": "only with --create-database; the foundation makes the database"}


def test_every_call_of_boto3_is_some_tasks_right_and_every_declared_one_is_called() -> None:
    called = frozenset().union(*boto3_actions().values())
    assert "glue:GetTables" in called, "found in connectors/glue.py"
    declared = {action for task in TASKS for action in task.glue}
    assert called - NOT_AT_WORK.keys() - set(REFERENCE_ACTIONS) == declared == set(GLUE_ACTIONS)
    assert called >= set(REFERENCE_ACTIONS)
    assert NOT_AT_WORK.keys() <= called


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import boto3\nc = boto3.client('s3')\nc.put_object(Bucket='b')", {"s3:PutObject"}),
        ("c = boto3.client('glue')\nc.get_paginator('get_tables')", {"glue:GetTables"}),
        ("c = session.client('secretsmanager')\nc.get_secret_value(SecretId='s')", {"secretsmanager:GetSecretValue"}),
        ("c = boto3.client('ssm')\nself._c.get_parameter(Name='n')", {"ssm:GetParameter"}),
        ("client.put_object()", set()),
    ],
)
def test_calls_are_found_whatever_the_client_is_called(source: str, found: set[str]) -> None:
    assert set(actions_of(source)) == found


def test_client_of_a_service_that_is_no_literal_is_refused() -> None:
    with pytest.raises(UnknownServiceError):
        list(actions_of("boto3.client(name)"))


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_role_has_the_actions_of_its_facts_and_no_other(task: Task) -> None:
    expected = {"s3:GetObject", "s3:ListBucket", "kms:Decrypt", *task.glue} if task.lake else set()
    if task.writes:
        expected |= {"s3:PutObject", "s3:AbortMultipartUpload", "kms:GenerateDataKey"}
    if task.backs_up:
        expected |= {"s3:PutObject", "s3:AbortMultipartUpload", "kms:GenerateDataKey"}
    if task.deletes:
        expected |= {"s3:DeleteObject"}
    if task.kafka:
        expected |= {*CONNECT, IDEMPOTENT, *TOPICS, *GROUPS, *(TRANSACTIONS if task.transactions else ())}
    if task.kafka or task.database:
        expected |= {*REFERENCE_ACTIONS}
    assert actions(task_role(task)) == expected
    expected -= {*REFERENCE_ACTIONS} | {action for action in expected if action.startswith("kafka-cluster:")}
    assert expected <= LAKE.keys() | set(GLUE_ACTIONS)
    secret = task.kafka or task.database
    of_secrets = {"secretsmanager:GetSecretValue", "kms:Decrypt"}
    assert actions(execution_role(task)) == (START.keys() if secret else START.keys() - of_secrets)


def test_every_declared_action_is_used_by_some_role() -> None:
    used = {action for task in TASKS for action in actions(task_role(task))}
    of_kafka = {*CONNECT, IDEMPOTENT, *TOPICS, *GROUPS, *TRANSACTIONS}
    assert used == LAKE.keys() | set(GLUE_ACTIONS) | of_kafka | set(REFERENCE_ACTIONS)


def test_no_role_has_an_action_by_pattern() -> None:
    for task in TASKS:
        for role in (task_role(task), execution_role(task)):
            assert not any("*" in action or "?" in action for action in actions(role))


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_role_writes_its_tables_alone_and_reads_personal_rows_only_where_it_must(task: Task) -> None:
    role = task_role(task)
    for name in LAKE_TABLES:
        file = f"arn:aws:s3:::bucket/lake/{name}/known_date=2024-05-01/part-0.parquet"
        log = f"arn:aws:s3:::bucket/lake/{name}/_delta_log/00000000000000000001.json"
        assert allows(role, "s3:GetObject", log, values=VALUES) == task.lake
        assert allows(role, "s3:PutObject", file, values=VALUES) == (
            name in task.writes and (task.personal or name not in PERSONAL_TABLES)
        )
        assert allows(role, "s3:DeleteObject", file, values=VALUES) == task.deletes
        assert allows(role, "s3:GetObject", file, values=VALUES) == (
            task.lake and (task.personal or name not in PERSONAL_TABLES)
        )
    assert not allows(role, "s3:GetObject", "arn:aws:s3:::bucket/elsewhere/x", values=VALUES)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_place_of_backups_is_read_and_added_to_by_the_backup_alone_and_nobody_deletes_there(task: Task) -> None:
    role, s3 = task_role(task), {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}
    for key in ("trs/2026-05/sku_log/part-0.parquet", "trs/2026-05/backup/lake.json"):
        file = f"arn:aws:s3:::backups/{key}"
        may = [allows(role, f"s3:{action}", file, values=VALUES) for action in ("GetObject", "PutObject")]
        assert may == [task.backs_up] * 2
        assert not allows(role, "s3:DeleteObject", file, values=VALUES)
    assert allows(role, "kms:GenerateDataKey", "BackupKeyArn", values=VALUES, context=s3) == task.backs_up
    assert not allows(role, "kms:GenerateDataKey", "BackupKeyArn", values=VALUES)
    assert not allows(role, "s3:PutObject", "arn:aws:s3:::backups/another/x", values=VALUES)


def test_scheduler_starts_the_scheduled_tasks_alone() -> None:
    from deploy.service import service_template

    role = service_template()["Resources"]["ScheduleRole"]
    assert actions(role) == {"ecs:RunTask", "iam:PassRole", "sqs:SendMessage"}
    for task in SCHEDULED:
        assert allows(role, "ecs:RunTask", f"{task.name.capitalize()}Task", values=VALUES)
    assert not allows(role, "ecs:RunTask", "WorkerTask", values=VALUES)
