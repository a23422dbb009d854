"""The templates as stacks: moto makes what it can of them, one with the outputs of the other.

It passes over alarms, scaling, timetables, lifecycles, workgroups and Lake Formation; of these cfn-lint alone knows.
"""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy.__main__ import TEMPLATES
from deploy.tasks import TASKS
from processors.lake_tables import PERSONAL_TABLES
from tests.deploy.iam import resolved

REGION = "eu-west-1"
INLINE_POLICY_LIMIT = 10_240
GIVEN = {
    "ImageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/trs-stream@sha256:0",
    "Subnets": "subnet-1,subnet-2",
    "SecurityGroups": "sg-1",
    "KafkaBootstrap": "b-1:9096",
    "KafkaSecret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_trs",
    "DatabaseSecret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:trs-database",
}
"""Parameters without a default that no other stack of ours tells."""


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")


def make(name: str, *, stack_name: str = "", **parameters: str) -> dict[str, str]:
    """Makes a stack and returns its outputs."""
    cloudformation = client("cloudformation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what moto passes over
        cloudformation.create_stack(
            StackName=stack_name or name,
            TemplateBody=json.dumps(TEMPLATES[f"{name.replace('-', '_')}.json"]()),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    (stack,) = cloudformation.describe_stacks(StackName=stack_name or name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}


def of_foundation(outputs: dict[str, str]) -> dict[str, str]:
    """The service's parameters that the foundation tells."""
    return {name: outputs[name] for name in ("LakeBucket", "LakeKeyArn", "AlarmTopicArn")}


@pytest.fixture(scope="module")
def stacks() -> Iterator[dict[str, dict[str, str]]]:
    """Foundation, service and readers in an account of moto's; outputs by stack."""
    with mock_aws():
        foundation = make("foundation")
        backups = make("backups", LakeAccount="210987654321")
        service = make(
            "service",
            UseDms="true",
            **of_foundation(foundation),
            **backups,
            **GIVEN,
        )
        client("iam").create_role(RoleName="analysts", AssumeRolePolicyDocument="{}")
        readers = make("bi-access", LakeBucket=foundation["LakeBucket"], ReaderRoleName="analysts")
        yield {"foundation": foundation, "backups": backups, "service": service, "bi_access": readers}


def test_each_task_runs_its_own_command_with_its_own_secrets(stacks: dict[str, dict[str, str]]) -> None:
    ecs = client("ecs")
    for task in TASKS:
        found = ecs.describe_task_definition(taskDefinition=f"service-{task.name}")["taskDefinition"]
        (container,) = found["containerDefinitions"]
        place = {"BackupBucket": stacks["backups"]["BackupBucket"], "BackupPrefix": "trs"}
        assert container["command"] == [resolved({"Fn::Sub": part}, place) for part in task.command]
        secrets = {secret["name"] for secret in container.get("secrets", [])}
        assert ("TRS_DATABASE" in secrets) == task.database
        environment = {pair["name"]: pair["value"] for pair in container["environment"]}
        lake = f"s3://{stacks['foundation']['LakeBucket']}/lake" if task.lake else None
        assert environment.get("TRS_LAKE") == lake


def test_roles_as_made_are_within_the_limit_of_iam(stacks: dict[str, dict[str, str]]) -> None:
    iam = client("iam")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"] if role["RoleName"].startswith("service-")]
    assert len(names) == 2 * len(TASKS) + 1
    for name in names:
        if not iam.list_role_policies(RoleName=name)["PolicyNames"]:  # the translator's own
            continue
        (rights,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
        document = iam.get_role_policy(RoleName=name, PolicyName=rights)["PolicyDocument"]
        assert len(json.dumps(document, separators=(",", ":"))) < INLINE_POLICY_LIMIT


def test_readers_get_policies_that_deny_the_personal_tables(stacks: dict[str, dict[str, str]]) -> None:
    iam = client("iam")
    attached = iam.list_attached_role_policies(RoleName="analysts")["AttachedPolicies"]
    denied: set[str] = set()
    for policy in attached:
        version = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId="v1")
        for statement in version["PolicyVersion"]["Document"]["Statement"]:
            if statement["Effect"] == "Deny":
                denied |= set(statement["Resource"])
    assert all(any(f"/{name}" in resource for resource in denied) for name in PERSONAL_TABLES)


def test_without_a_bucket_for_backups_nothing_of_them_is_made(stacks: dict[str, dict[str, str]]) -> None:
    told = make("service", stack_name="bare", **of_foundation(stacks["foundation"]), **GIVEN)
    families = client("ecs").list_task_definition_families(familyPrefix="bare-")["families"]
    assert set(families) == {f"bare-{task.name}" for task in TASKS if task.condition is None}
    assert told.keys() == stacks["service"].keys() - {"BackupRoleArn"}
