"""Readers of the lake see no personal data: by columns, by the policy, by the grants."""

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from deploy.bi_access import readable_names, template
from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
from processors.tables import TABLES
from processors.views.catalog import VIEWS, View

VALUES = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "LakeBucket": "bucket",
    "LakePrefix": "lake",
    "GlueDatabase": "trs",
    "ReaderRoleName": "bi",
}


def resolved(value: Any, *, governed: bool) -> Any:
    """The template's value once CloudFormation has filled it in; what is left out is None."""
    if isinstance(value, list):
        return [r for r in (resolved(v, governed=governed) for v in value) if r is not None]
    if not isinstance(value, dict):
        return value
    if "Fn::Sub" in value:
        return re.sub(r"\$\{([^}]+)\}", lambda m: VALUES[m[1]], value["Fn::Sub"])
    if "Fn::If" in value:
        return resolved(value["Fn::If"][1 if governed else 2], governed=governed)
    if "Ref" in value:
        return VALUES.get(value["Ref"])
    return {k: resolved(v, governed=governed) for k, v in value.items()}


def policies(*, governed: bool) -> list[dict[str, Any]]:
    managed = [r for r in template()["Resources"].values() if r["Type"] == "AWS::IAM::ManagedPolicy"]
    return [resolved(r["Properties"]["PolicyDocument"], governed=governed) for r in managed]


def allows(action: str, resource: str, *, governed: bool) -> bool:
    """What IAM decides: a denial wins, else one statement must allow."""
    verdicts = set()
    for statement in (s for document in policies(governed=governed) for s in document["Statement"]):
        actions, resources = (v if isinstance(v, list) else [v] for v in (statement["Action"], statement["Resource"]))
        if any(fnmatchcase(action, a) for a in actions) and any(fnmatchcase(resource, r) for r in resources):
            verdicts.add(statement["Effect"])
    return verdicts == {"Allow"}


def test_personal_columns_are_in_guarded_tables_alone() -> None:
    personal = {c.name for table in TABLES for c in table.columns if c.personal}
    assert len(personal) == 4
    holding = {name for name, t in LAKE_TABLES.items() if personal & set(t.schema.names)}
    assert holding == {"accounts_private_changes"}
    for view in VIEWS.values():
        assert not personal & set(view.schema.names)


def test_no_view_reads_a_guarded_table() -> None:
    def tables(view: View) -> set[str]:
        return {t for name in view.reads for t in (tables(VIEWS[name]) if name in VIEWS else {name})}

    for view in VIEWS.values():
        assert not tables(view) & PERSONAL_TABLES


@pytest.mark.parametrize("governed", [False, True])
def test_policy_opens_every_table_but_the_guarded(governed: bool) -> None:
    for name in LAKE_TABLES:
        open_table = name not in PERSONAL_TABLES
        file = f"arn:aws:s3:::bucket/lake/{name}/part-0.parquet"
        assert allows("s3:GetObject", file, governed=governed) == (open_table and not governed)
        entry = f"arn:aws:glue:eu-west-1:123456789012:table/trs/{name}"
        assert allows("glue:GetTable", entry, governed=governed) == open_table
    assert not allows("s3:PutObject", "arn:aws:s3:::bucket/lake/invoice_log/x", governed=governed)
    assert not allows("s3:GetObject", "arn:aws:s3:::bucket/elsewhere", governed=governed)


@pytest.mark.parametrize("governed", [False, True])
def test_policies_are_within_the_limit_of_iam(governed: bool) -> None:
    longest_bucket_name = 63 - len(VALUES["LakeBucket"])
    for document in policies(governed=governed):
        text = re.sub(r"\s", "", json.dumps(document))
        assert len(text) + text.count(":s3:::") * longest_bucket_name <= 6_144


def test_grants_name_every_readable_table_and_view_once() -> None:
    resources = template()["Resources"].values()
    grants = [r["Properties"] for r in resources if r["Type"] == "AWS::LakeFormation::PrincipalPermissions"]
    names = [g["Resource"]["Table"]["Name"] for g in grants if "Table" in g["Resource"]]
    assert sorted(names) == sorted(readable_names())
    assert not set(names) & PERSONAL_TABLES
    assert {p for g in grants for p in g["Permissions"]} == {"SELECT", "DESCRIBE"}
