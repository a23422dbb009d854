"""Each task of production does its work with the rights of its role: what it asks S3 and Glue for is what it may."""

import uuid
from dataclasses import replace
from urllib.parse import urlsplit

import boto3
import pytest

from app.settings import Settings
from deploy.roles import CONNECT, GROUPS, IDEMPOTENT, REFERENCE_ACTIONS, TOPICS, TRANSACTIONS, task_role
from deploy.tasks import SCHEDULED, WORKER, Task
from tests.deploy.iam import VALUES, actions, allows, resolved
from tests.deploy.recorder import Asked, Recorder, recording
from tests.stack_helpers import trs

TASK = {task.name: task for task in (WORKER, *SCHEDULED)}
NEVER_SEEN = {
    "kms:Decrypt": "S3 asks, not we",
    "kms:GenerateDataKey": "S3 asks, not we",
    "s3:AbortMultipartUpload": "only when a write fails",
    **dict.fromkeys((*CONNECT, IDEMPOTENT, *TOPICS, *GROUPS, *TRANSACTIONS), "the stack's broker knows no roles"),
    **dict.fromkeys(REFERENCE_ACTIONS, "only where settings refer to secrets"),
}


def ran(settings: Settings, recorder: Recorder, task: Task, *more: str) -> set[Asked]:
    """The task's own command as the template has it; returns what it asked for."""
    recorder.asked.clear()
    command = [resolved({"Fn::Sub": part}, VALUES) for part in task.command if part != "--wait"]
    trs(settings.model_copy(update={"aws_endpoint": recorder.url}), *command, *more)
    return set(recorder.asked)


def refused(task: Task, asked: set[Asked], lake: str) -> list[Asked]:
    """What the task asked for and its role does not allow."""
    place = urlsplit(lake)
    values = VALUES | {"LakeBucket": place.netloc, "LakePrefix": place.path.strip("/")}
    role = task_role(task)

    def may(request: Asked) -> bool:
        if request.action.startswith("glue:"):
            return request.action in actions(role)
        context = {} if request.prefix is None else {"s3:prefix": request.prefix}
        return allows(role, request.action, request.resource, values=values, context=context)

    return [request for request in asked if not may(request)]


@pytest.mark.long
def test_every_task_does_its_work_with_the_rights_of_its_role(stack_settings: Settings) -> None:
    settings = stack_settings.model_copy(update={"glue_database": f"rights_{uuid.uuid4().hex[:8]}"})
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": settings.aws_region}
    glue = boto3.client("glue", endpoint_url=settings.aws_endpoint, **keys)
    glue.create_database(DatabaseInput={"Name": settings.glue_database})  # as the foundation does
    trs(settings, "generate", "--invoices", "60", "--to", "mysql")
    with recording(str(settings.aws_endpoint)) as recorder:
        first = ran(settings, recorder, WORKER, "--until-caught-up")
        asked = {"worker": first}
        asked["diff"] = ran(settings, recorder, TASK["diff"])
        asked["worker"] |= ran(settings, recorder, WORKER, "--until-caught-up")
        s3 = boto3.client("s3", endpoint_url=settings.aws_endpoint, **keys)
        s3.create_bucket(Bucket=VALUES["BackupBucket"])
        for name in ("reconcile", "check", "register", "backup"):
            asked[name] = ran(settings, recorder, TASK[name])
        eager = settings.model_copy(update={"fold_min_rows": 1})
        asked["maintain"] = ran(eager, recorder, TASK["maintain"])
    for name, requests in asked.items():
        assert refused(TASK[name], requests, settings.lake) == [], name
        granted = actions(task_role(TASK[name]))
        seen = {request.action for request in requests}
        unused = granted - seen - NEVER_SEEN.keys()
        if name == "register":  # a first registration updates and deletes nothing
            unused -= {"glue:UpdateTable", "glue:DeleteTable"}
        if name == "maintain":  # nothing is old enough to be deleted
            unused -= {"s3:DeleteObject"}
        assert unused == set(), name
    # The test itself can fail: without its rights to write, the worker would have been refused.
    assert refused(replace(WORKER, writes=()), asked["worker"], settings.lake) != []
