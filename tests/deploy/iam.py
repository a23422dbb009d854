"""What IAM decides of a template's policies, once CloudFormation has filled them in."""

import re
from fnmatch import fnmatchcase
from typing import Any

VALUES = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "trs",
    "LakeBucket": "bucket",
    "LakePrefix": "lake",
    "GlueDatabase": "trs",
    "BackupBucket": "backups",
    "BackupPrefix": "trs",
}


def resolved(value: Any, values: dict[str, str]) -> Any:
    """The template's value with references filled in: by `values`, else by their own names. Conditions all hold, except
    those that would leave something out.
    """
    if isinstance(value, list):
        return [r for r in (resolved(v, values) for v in value) if r is not None]
    if not isinstance(value, dict):
        return value
    if "Fn::Sub" in value:
        return re.sub(r"\$\{([^}]+)\}", lambda m: values.get(m[1], m[1]), value["Fn::Sub"])
    if "Fn::If" in value:
        yes, no = (resolved(branch, values) for branch in value["Fn::If"][1:])
        return no if yes is None else yes
    if "Fn::GetAtt" in value:
        return ".".join(value["Fn::GetAtt"])
    if "Ref" in value:
        return None if value["Ref"] == "AWS::NoValue" else values.get(value["Ref"], value["Ref"])
    return {k: resolved(v, values) for k, v in value.items()}


def statements(role: dict[str, Any], values: dict[str, str]) -> list[dict[str, Any]]:
    """The statements of a role's own policies."""
    policies = resolved(role["Properties"].get("Policies", []), values)
    return [s for p in policies for s in p["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def actions(role: dict[str, Any]) -> set[str]:
    """Every action that a role allows."""
    return {a for s in statements(role, VALUES) if s["Effect"] == "Allow" for a in listed(s["Action"])}


def allows(
    role: dict[str, Any], action: str, resource: str, *, values: dict[str, str], context: dict[str, str] | None = None
) -> bool:
    """A denial wins, else one statement must allow. A condition on what the request lacks fails, unless IfExists."""
    verdicts = set()
    for statement in statements(role, values):
        if (
            any(fnmatchcase(action, a) for a in listed(statement["Action"]))
            and any(fnmatchcase(resource, r) for r in listed(statement["Resource"]))
            and _holds(statement.get("Condition", {}), context or {})
        ):
            verdicts.add(statement["Effect"])
    return verdicts == {"Allow"}


def _holds(condition: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    for operator, keys in condition.items():
        for key, wanted in keys.items():
            given = context.get(key)
            if given is None:
                if not operator.endswith("IfExists"):
                    return False
            elif not any(fnmatchcase(given, pattern) for pattern in listed(wanted)):
                return False
    return True
