"""A place for backups, in the lake's account or in another one of the same region: `deploy/backups.json`.

Whoever may write there may not delete, and S3 keeps what was overwritten. Backups of a month share their files
(`trs lake backup --monthly`), so what is `ExpireDays` old is needed by no backup younger than that less a month.
"""

from deploy.buckets import KEEP, VERSIONED, bucket, bucket_policy, undo_rule
from deploy.cloudformation import Json, attribute, either, given, number, policy, ref, sub, template, text

MONTH_DAYS = 31
OTHER_ACCOUNT = "OtherAccount"


def backups_template() -> Json:
    """The template as JSON values."""
    return template(
        "trs-stream: a bucket and a key for backups of the lake; written by python -m deploy",
        Parameters={
            "LakeAccount": text("Account whose tasks write here, if it is another.", "", AllowedPattern="[0-9]*"),
            "ExpireDays": number(
                f"Days after which S3 deletes a file; a backup is whole for {MONTH_DAYS} days less.",
                62, MinValue=MONTH_DAYS + 7, MaxValue=3650,
            ),
            "UndoDays": number("Days for which S3 keeps what was replaced or deleted.", 14, MinValue=1, MaxValue=365),
        },
        Conditions={OTHER_ACCOUNT: given("LakeAccount")},
        Resources={
            "Key": _key(),
            "Place": _place(),
            "PlacePolicy": bucket_policy("Place", *_writers()),
        },
        Outputs={"BackupBucket": {"Value": ref("Place")}, "BackupKeyArn": {"Value": attribute("Key", "Arn")}},
    )  # fmt: skip


def _place() -> Json:
    old = {"Id": "old", "Status": "Enabled", "ExpirationInDays": ref("ExpireDays")}
    return bucket([old, undo_rule()], VersioningConfiguration=VERSIONED)


def _of_account(sid: str, account: str, actions: list[str], *resources: object, **more: Json) -> Json:
    """A statement that lets an account hand out rights to its own roles."""
    principal = {"AWS": sub(f"arn:${{AWS::Partition}}:iam::${{{account}}}:root")}
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": principal,
        "Action": actions,
        "Resource": list(resources),
        **more,
    }


def _writers() -> list[Json]:
    """What another account may give its roles; in the same account the roles' own policies are enough."""
    objects = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    return [
        either(OTHER_ACCOUNT, _of_account("LookUp", "LakeAccount", ["s3:ListBucket"], attribute("Place", "Arn"))),
        either(OTHER_ACCOUNT, _of_account("Add", "LakeAccount", objects, sub("${Place.Arn}/*"))),
    ]


def _key() -> Json:
    through = {"StringEquals": {"kms:ViaService": sub("s3.${AWS::Region}.${AWS::URLSuffix}")}}
    using = _of_account("Use", "LakeAccount", ["kms:Decrypt", "kms:GenerateDataKey"], "*", Condition=through)
    return {
        "Type": "AWS::KMS::Key",
        **KEEP,
        "Properties": {
            "Description": sub("${AWS::StackName}: backups of the lake"),
            "EnableKeyRotation": True,
            "KeyPolicy": policy(
                _of_account("ByPolicies", "AWS::AccountId", ["kms:*"], "*"), either(OTHER_ACCOUNT, using)
            ),
        },
    }
