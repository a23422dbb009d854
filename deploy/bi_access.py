"""What finance, BI and scientists may read, as a CloudFormation template.

    python -m deploy.bi_access > deploy/bi_access.json

Written from the lake's own declarations, so that a new table or view is granted, and one with personal data withheld,
by being declared (`LakeTable.personal`; the personal columns of the source are marked in processors/tables.py). A test
holds the file against them.

Two ways, by the parameter GovernedByLakeFormation:

- false: a policy allows reading the files of every table without personal data, and denies those with it, whatever
  else the role is allowed.
- true: S3 stays closed to the role; Lake Formation hands out access, by grants of SELECT per table and view. A view is
  read with the rights of who asks, so the tables below it are granted too.
"""

import json
import sys
from typing import Any

from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
from processors.views.catalog import VIEWS

_FILES = "arn:${AWS::Partition}:s3:::${LakeBucket}/${LakePrefix}"
_GLUE = "arn:${AWS::Partition}:glue:${AWS::Region}:${AWS::AccountId}"


def readable_names() -> tuple[str, ...]:
    """Tables and views that may be read, in order."""
    return tuple(sorted((LAKE_TABLES.keys() - PERSONAL_TABLES) | VIEWS.keys()))


def template() -> dict[str, Any]:
    """The template as JSON values."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Reads the trs-stream lake without personal data; by python -m deploy.bi_access",
        "Parameters": {
            "LakeBucket": {"Type": "String", "Description": "Bucket of TRS_LAKE."},
            "LakePrefix": {"Type": "String", "Default": "lake", "Description": "Folder of TRS_LAKE in the bucket."},
            "GlueDatabase": {"Type": "String", "Default": "trs", "Description": "TRS_GLUE_DATABASE."},
            "ReaderRoleName": {"Type": "String", "Description": "Existing role of the people or the tool that reads."},
            "GovernedByLakeFormation": {
                "Type": "String",
                "AllowedValues": ["true", "false"],
                "Default": "false",
                "Description": "Whether the bucket is registered with Lake Formation.",
            },
        },
        "Conditions": {"Governed": {"Fn::Equals": [{"Ref": "GovernedByLakeFormation"}, "true"]}},
        "Resources": {"ReadFiles": _files_policy(), "ReadCatalogue": _catalogue_policy(), **_grants()},
    }


def _files_policy() -> dict[str, Any]:
    readable = sorted(LAKE_TABLES.keys() - PERSONAL_TABLES)
    through_lake_formation = {
        "Sid": "AskLakeFormation",
        "Effect": "Allow",
        "Action": "lakeformation:GetDataAccess",
        "Resource": "*",
    }
    read_files = {
        "Sid": "ReadFiles",
        "Effect": "Allow",
        "Action": "s3:GetObject",
        "Resource": [_sub(f"{_FILES}/{name}/*") for name in readable],
    }
    list_files = {
        "Sid": "ListFiles",
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": _sub("arn:${AWS::Partition}:s3:::${LakeBucket}"),
        "Condition": {"StringLikeIfExists": {"s3:prefix": [_sub(f"${{LakePrefix}}/{name}/*") for name in readable]}},
    }
    return _policy(
        "Reads the files of the lake without personal data.",
        {"Fn::If": ["Governed", through_lake_formation, read_files]},
        {"Fn::If": ["Governed", {"Ref": "AWS::NoValue"}, list_files]},
        _never("s3:*", [f"{_FILES}/{name}/*" for name in sorted(PERSONAL_TABLES)]),
    )


def _catalogue_policy() -> dict[str, Any]:
    table = f"{_GLUE}:table/${{GlueDatabase}}/"
    read_entries = {
        "Sid": "ReadEntries",
        "Effect": "Allow",
        "Action": ["glue:GetDatabase", "glue:GetDatabases", "glue:GetTable", "glue:GetTables"],
        "Resource": [
            _sub(f"{_GLUE}:catalog"),
            _sub(f"{_GLUE}:database/${{GlueDatabase}}"),
            *(_sub(table + name) for name in readable_names()),
        ],
    }
    return _policy(
        "Reads the lake's entries in Glue, but those of personal data.",
        read_entries,
        _never("glue:*", [table + name for name in sorted(PERSONAL_TABLES)]),
    )


def _never(action: str, resources: list[str]) -> dict[str, Any]:
    return {
        "Sid": "NeverPersonalData",
        "Effect": "Deny",
        "Action": action,
        "Resource": [_sub(resource) for resource in resources],
    }


def _policy(description: str, *statements: dict[str, Any]) -> dict[str, Any]:
    """Two of them, because one may have 6,144 characters at most."""
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {
            "Description": description,
            "Roles": [{"Ref": "ReaderRoleName"}],
            "PolicyDocument": {"Version": "2012-10-17", "Statement": list(statements)},
        },
    }


def _grants() -> dict[str, Any]:
    """One grant per table and view, by its name in camel case."""
    database = {"CatalogId": {"Ref": "AWS::AccountId"}, "Name": {"Ref": "GlueDatabase"}}
    grants = {"GrantDatabase": _grant({"Database": database}, ["DESCRIBE"])}
    for name in readable_names():
        table = {"CatalogId": {"Ref": "AWS::AccountId"}, "DatabaseName": {"Ref": "GlueDatabase"}, "Name": name}
        logical = "".join(part.capitalize() for part in name.split("_"))
        grants[f"Grant{logical}"] = _grant({"Table": table}, ["SELECT", "DESCRIBE"])
    return grants


def _grant(resource: dict[str, Any], permissions: list[str]) -> dict[str, Any]:
    return {
        "Type": "AWS::LakeFormation::PrincipalPermissions",
        "Condition": "Governed",
        "Properties": {
            "Principal": {
                "DataLakePrincipalIdentifier": _sub(
                    "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${ReaderRoleName}"
                )
            },
            "Resource": resource,
            "Permissions": permissions,
            "PermissionsWithGrantOption": [],
        },
    }


def _sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(template(), indent=2) + "\n")
