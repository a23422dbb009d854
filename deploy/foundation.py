"""What outlives the worker: keys, buckets, catalogue, workgroup, registry, topic of alarms; `deploy/foundation.json`.

Data is not deleted with the stack. No lifecycle rule ever deletes a current object of the lake: which files are still
needed only Delta's log says, and `trs lake maintain` asks it. What it deletes S3 keeps for some days as an older
version; these expire.
"""

import json

from deploy.buckets import KEEP, VERSIONED, bucket, bucket_policy, undo_rule
from deploy.cloudformation import (
    Json,
    allow,
    attribute,
    choice,
    either,
    number,
    policy,
    ref,
    role,
    sub,
    template,
    text,
)


def foundation_template() -> Json:
    """The template as JSON values."""
    return template(
        "trs-stream: keys, buckets, catalogue, workgroup, image registry; written by python -m deploy",
        Parameters={
            "GlueDatabaseName": text("TRS_GLUE_DATABASE.", "trs", AllowedPattern="[a-z0-9_]+"),
            "UndoDays": number("Days for which S3 keeps what was deleted from the lake.", 14, MinValue=1, MaxValue=365),
            "ResultDays": number("Days for which results of queries are kept.", 14, MinValue=1, MaxValue=365),
            "QueryLimitGB": number("GB that one query may read before Athena ends it.", 100, MinValue=1),
            "ImageRepositoryName": text("Name of the registry of images.", "trs-stream"),
            "AlarmEmail": text("Address that is told of alarms; empty: none.", ""),
            "GovernedByLakeFormation": choice(
                "Whether Lake Formation hands out access to the lake's files (with bi_access.json).", ("false", "true")
            ),
        },
        Conditions={
            "Governed": {"Fn::Equals": [ref("GovernedByLakeFormation"), "true"]},
            "HasEmail": {"Fn::Not": [{"Fn::Equals": [ref("AlarmEmail"), ""]}]},
        },
        Resources={
            "Key": _key(),
            "KeyName": {
                "Type": "AWS::KMS::Alias",
                "Properties": {"AliasName": sub("alias/${AWS::StackName}"), "TargetKeyId": ref("Key")},
            },
            "Lake": _lake_bucket(),
            "LakePolicy": bucket_policy("Lake"),
            "Results": _results_bucket(),
            "ResultsPolicy": bucket_policy("Results"),
            "Database": {
                "Type": "AWS::Glue::Database",
                **KEEP,
                "Properties": {
                    "CatalogId": ref("AWS::AccountId"),
                    "DatabaseInput": {
                        "Name": ref("GlueDatabaseName"),
                        "Description": "Tables and views of a trs-stream lake.",
                        "LocationUri": sub("s3://${Lake}/"),
                    },
                },
            },
            "Workgroup": _workgroup(),
            "AskLake": _ask(),
            "Images": _images(),
            "AlarmTopic": {
                "Type": "AWS::SNS::Topic",
                "Properties": {
                    "KmsMasterKeyId": ref("Key"),
                    "Subscription": either(
                        "HasEmail", [{"Protocol": "email", "Endpoint": ref("AlarmEmail")}]
                    ),
                },
            },
            "AlarmTopicPolicy": _who_may_tell(),
            "LakeFormationRole": {**_lake_formation_role(), "Condition": "Governed"},
            "LakeLocation": {
                "Type": "AWS::LakeFormation::Resource",
                "Condition": "Governed",
                "Properties": {
                    "ResourceArn": attribute("Lake", "Arn"),
                    "UseServiceLinkedRole": False,
                    "RoleArn": attribute("LakeFormationRole", "Arn"),
                },
            },
        },
        Outputs={
            "LakeBucket": {"Value": ref("Lake")},
            "LakeKeyArn": {"Value": attribute("Key", "Arn")},
            "GlueDatabase": {"Value": ref("Database")},
            "AthenaWorkgroup": {"Value": ref("Workgroup")},
            "AskPolicyArn": {"Value": ref("AskLake")},
            "ImageRepository": {"Value": ref("Images")},
            "AlarmTopicArn": {"Value": ref("AlarmTopic")},
        },
    )  # fmt: skip


def _key() -> Json:
    account = {"AWS": sub("arn:${AWS::Partition}:iam::${AWS::AccountId}:root")}
    services = {"Service": ["cloudwatch.amazonaws.com", "events.amazonaws.com"]}
    return {
        "Type": "AWS::KMS::Key",
        **KEEP,
        "Properties": {
            "Description": sub("${AWS::StackName}: lake, results of queries, alarms"),
            "EnableKeyRotation": True,
            "KeyPolicy": policy(
                {"Sid": "ByPolicies", "Effect": "Allow", "Principal": account, "Action": "kms:*", "Resource": "*"},
                {
                    "Sid": "TellAlarms",
                    "Effect": "Allow",
                    "Principal": services,
                    "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
                    "Resource": "*",
                    "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
                },
            ),
        },
    }


def _lake_bucket() -> Json:
    return bucket([undo_rule()], VersioningConfiguration=VERSIONED)


def _results_bucket() -> Json:
    return bucket([{"Id": "results", "Status": "Enabled", "ExpirationInDays": ref("ResultDays")}])


def _workgroup() -> Json:
    return {
        "Type": "AWS::Athena::WorkGroup",
        "Properties": {
            "Name": sub("${AWS::StackName}"),
            "Description": "Queries over the lake of trs-stream.",
            "WorkGroupConfiguration": {
                "EnforceWorkGroupConfiguration": True,
                "PublishCloudWatchMetricsEnabled": True,
                "BytesScannedCutoffPerQuery": sub("${QueryLimitGB}000000000"),
                "EngineVersion": {"SelectedEngineVersion": "Athena engine version 3"},
                "ResultConfiguration": {
                    "OutputLocation": sub("s3://${Results}/"),
                    "EncryptionConfiguration": {"EncryptionOption": "SSE_KMS", "KmsKey": attribute("Key", "Arn")},
                },
            },
        },
    }


def _ask() -> Json:
    """For people: asking in this workgroup. What they see of the lake is in bi_access.json."""
    queries = [
        "athena:BatchGetQueryExecution",
        "athena:GetQueryExecution",
        "athena:GetQueryResults",
        "athena:GetQueryResultsStream",
        "athena:GetWorkGroup",
        "athena:ListQueryExecutions",
        "athena:StartQueryExecution",
        "athena:StopQueryExecution",
    ]
    workgroup = "arn:${AWS::Partition}:athena:${AWS::Region}:${AWS::AccountId}:workgroup/${Workgroup}"
    results = [attribute("Results", "Arn"), sub("${Results.Arn}/*")]
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {
            "Description": "Asks Athena in the workgroup of trs-stream; attach it beside bi_access.",
            "PolicyDocument": policy(
                allow("Ask", queries, [sub(workgroup)]),
                allow(
                    "KeepResults",
                    [
                        "s3:AbortMultipartUpload",
                        "s3:GetBucketLocation",
                        "s3:GetObject",
                        "s3:ListBucket",
                        "s3:PutObject",
                    ],
                    results,
                ),
                allow("LakeKey", ["kms:Decrypt", "kms:GenerateDataKey"], [attribute("Key", "Arn")]),
            ),
        },
    }


def _images() -> Json:
    old = {
        "rulePriority": 1,
        "description": "the last 30 images are kept",
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 30},
        "action": {"type": "expire"},
    }
    return {
        "Type": "AWS::ECR::Repository",
        **KEEP,
        "Properties": {
            "RepositoryName": ref("ImageRepositoryName"),
            "ImageTagMutability": "IMMUTABLE",
            "ImageScanningConfiguration": {"ScanOnPush": True},
            "LifecyclePolicy": {"LifecyclePolicyText": json.dumps({"rules": [old]})},
        },
    }


def _who_may_tell() -> Json:
    tell = {
        "Sid": "TellAlarms",
        "Effect": "Allow",
        "Principal": {"Service": ["cloudwatch.amazonaws.com", "events.amazonaws.com"]},
        "Action": "sns:Publish",
        "Resource": ref("AlarmTopic"),
        "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
    }
    return {
        "Type": "AWS::SNS::TopicPolicy",
        "Properties": {"Topics": [ref("AlarmTopic")], "PolicyDocument": policy(tell)},
    }


def _lake_formation_role() -> Json:
    """With this role Lake Formation reads the lake's files for those to whom it grants."""
    statements = [
        allow("ReadLake", ["s3:GetObject"], [sub("${Lake.Arn}/*")]),
        allow("ListLake", ["s3:ListBucket"], [attribute("Lake", "Arn")]),
        allow("LakeKey", ["kms:Decrypt"], [attribute("Key", "Arn")]),
    ]
    return role(
        "lakeformation.amazonaws.com",
        statements,
        description="Lake Formation reads the lake of trs-stream.",
    )
