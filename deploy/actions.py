"""Every action of AWS that our programs use, and what for.

Calls of boto3 are found in the source: the names of the client's methods are the actions. What delta-rs, obstore and
ECS do by themselves nobody sees there, so it is declared here with its reason; tests hold this list against what a
running system was seen to ask for, and the policies against both, so that a right that nothing needs fails as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import botocore.session
from botocore import xform_name

ROOT = Path(__file__).parents[1]
PROGRAMS = ("app", "connectors", "processors", "batch_bootstrap", "trs")
"""Folders of what runs in production."""

LAKE: dict[str, str] = {
    "s3:GetObject": "reads a table's log and its files; HEAD too",
    "s3:ListBucket": "lists a table's log; without it S3 answers 403 for an object that is not there yet, not 404",
    "s3:PutObject": "writes files and commits, in parts too; a commit is a PUT that fails where the object exists",
    "s3:AbortMultipartUpload": "gives up a file in parts whose writing failed",
    "s3:DeleteObject": "vacuum, clean-up of logs, files that a failed rewrite leaves",
    "kms:Decrypt": "reads objects of an encrypted bucket, and writes them in parts",
    "kms:GenerateDataKey": "writes objects of an encrypted bucket",
}
"""What obstore (connectors/object_store.py) and delta-rs ask of S3, and S3 of KMS on their behalf."""

START: dict[str, str] = {
    "ecr:GetAuthorizationToken": "ECS signs in to the registry",
    "ecr:BatchCheckLayerAvailability": "ECS looks which layers there are",
    "ecr:BatchGetImage": "ECS reads the image's manifest",
    "ecr:GetDownloadUrlForLayer": "ECS fetches the layers",
    "logs:CreateLogStream": "ECS opens the task's log",
    "logs:PutLogEvents": "ECS writes the task's log, metrics included",
    "secretsmanager:GetSecretValue": "ECS puts secrets into the task's environment",
    "kms:Decrypt": "of secrets with a key of their own",
}
"""What ECS asks for before our program runs."""


class UnknownServiceError(Exception):
    """A client of boto3 whose service is no literal: the source does not tell what it asks for."""


def boto3_actions(folders: tuple[str, ...] = PROGRAMS) -> dict[str, frozenset[str]]:
    """Actions that the source calls by boto3, by module (`connectors/glue.py`). Raises UnknownServiceError."""
    found: dict[str, frozenset[str]] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            actions = frozenset(actions_of(path.read_text(encoding="utf-8")))
            if actions:
                found[path.relative_to(ROOT).as_posix()] = actions
    return found


def actions_of(source: str) -> Iterator[str]:
    """Actions that a module's clients of boto3 are asked for: by method, by paginator, by waiter."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for service in {s for call in calls if (s := _service(call)) is not None}:
        operations, prefix = _operations(service)
        for call in calls:
            if isinstance(call.func, ast.Attribute):
                name = call.func.attr
                if name in ("get_paginator", "get_waiter") and isinstance(call.args[0], ast.Constant):
                    name = str(call.args[0].value)
                if name in operations:
                    yield f"{prefix}:{operations[name]}"


def _service(call: ast.Call) -> str | None:
    """The service of `boto3.client("glue")`, `session.client(...)`, `boto3.resource(...)`; None for other calls."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("client", "resource"):
        return None
    owner = ast.unparse(call.func.value)
    if not any(word in owner.lower() for word in ("boto3", "session")):
        return None
    if not call.args or not isinstance(call.args[0], ast.Constant):
        raise UnknownServiceError(f"line {call.lineno}: {ast.unparse(call)}: name the service as a literal")
    return str(call.args[0].value)


def _operations(service: str) -> tuple[dict[str, str], str]:
    """The methods of a client with their actions, and what the actions begin with."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): name for name in model.operation_names}, model.signing_name
