"""Buckets as the templates make them: closed, encrypted, asked over TLS alone, and kept when their stack goes."""

from typing import Any

from deploy.cloudformation import Json, attribute, policy, ref, sub

KEEP = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
VERSIONED = {"Status": "Enabled"}


def bucket(rules: list[Json], **more: Any) -> Json:
    """A bucket with versions or without, encrypted with the template's `Key`."""
    encryption = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": attribute("Key", "Arn")}
    closed = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    parts = {"Id": "parts", "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
    return {
        "Type": "AWS::S3::Bucket",
        **KEEP,
        "Properties": {
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"BucketKeyEnabled": True, "ServerSideEncryptionByDefault": encryption}
                ]
            },
            "PublicAccessBlockConfiguration": dict.fromkeys(closed, True),
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "LifecycleConfiguration": {"Rules": [parts, *rules]},
            **more,
        },
    }


def undo_rule() -> Json:
    """Of a bucket with versions: what was deleted or overwritten is kept for `UndoDays`."""
    return {
        "Id": "undo",
        "Status": "Enabled",
        "NoncurrentVersionExpiration": {"NoncurrentDays": ref("UndoDays")},
        "ExpiredObjectDeleteMarker": True,
    }


def bucket_policy(name: str, *more: Json) -> Json:
    """The policy of the template's bucket `name`: nobody without TLS, and what else is given."""
    refuse = {
        "Sid": "OnlyTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [attribute(name, "Arn"), sub(f"${{{name}.Arn}}/*")],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    document = policy(refuse, *more)
    return {"Type": "AWS::S3::BucketPolicy", "Properties": {"Bucket": ref(name), "PolicyDocument": document}}
