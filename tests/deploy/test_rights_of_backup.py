"""`trs lake backup` as the template calls it asks S3 for what its role may, and its role may nothing else."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from deploy.alarms import BACKUP_DONE
from deploy.roles import task_role
from processors.lake_tables import ACCOUNTS_PRIVATE
from tests.app.commands import Answer, trs
from tests.deploy.iam import VALUES, actions, resolved
from tests.deploy.recorder import Recorder, recording
from tests.deploy.test_rights_on_stack import NEVER_SEEN, TASK, refused
from tests.moto_s3 import s3_server
from tests.small_lake import SmallLake, at

BACKUP = TASK["backup"]
LAKE = f"s3://{VALUES['LakeBucket']}/{VALUES['LakePrefix']}"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """S3 with a lake that has rows with personal data, and a bucket for backups."""
    DeltaLake(LakeLocation(str(tmp_path)))
    rows = SmallLake(tmp_path)
    rows.append(ACCOUNTS_PRIVATE.name, {"account_id": 1, "known_from": at("2024-05-01")})
    rows.epoch("invoices", 0, 1, "2024-05-01T10:00", {"aurora.trs.invoices": 5})
    with s3_server(VALUES["LakeBucket"]) as options, recording(options["AWS_ENDPOINT_URL"]) as recorder:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=options["AWS_ENDPOINT_URL"], **keys)
        s3.create_bucket(Bucket=VALUES["BackupBucket"])
        for path in (p for p in tmp_path.rglob("*") if p.is_file()):
            key = f"{VALUES['LakePrefix']}/{path.relative_to(tmp_path).as_posix()}"
            s3.upload_file(str(path), VALUES["LakeBucket"], key)
        yield recorder


def backed_up(recorder: Recorder, lake: str = LAKE) -> Answer:
    """The task's command, with the place filled in as CloudFormation does."""
    return trs(
        *(resolved({"Fn::Sub": part}, VALUES) for part in BACKUP.command),
        TRS_LAKE=lake,
        TRS_AWS_ENDPOINT=recorder.url,
        TRS_AWS_ACCESS_KEY="test",
        TRS_AWS_SECRET_KEY="test",
    )


def test_backup_asks_for_what_its_role_may_and_its_role_may_nothing_that_it_does_not_ask_for(
    recorder: Recorder,
) -> None:
    for _ in ("everything", "what is new"):
        told = backed_up(recorder)
        assert told.code == 0, told.err
        assert [BACKUP_DONE in line for line in told.out.splitlines()].count(True) == 1, "what the alarm counts"
    assert refused(BACKUP, recorder.asked, LAKE) == []
    month = re.compile(r"arn:aws:s3:::backups/trs/\d{4}-\d{2}/\w+/")
    assert all(month.match(request.resource) for request in recorder.asked if request.action == "s3:PutObject")
    assert actions(task_role(BACKUP)) - NEVER_SEEN.keys() == {request.action for request in recorder.asked}
    assert refused(replace(BACKUP, backs_up=False), recorder.asked, LAKE) != []
    assert refused(replace(BACKUP, personal=False), recorder.asked, LAKE) != []
    failed = backed_up(recorder, f"{LAKE}/sku_log")
    assert failed.code != 0
    assert BACKUP_DONE not in failed.out + failed.err
