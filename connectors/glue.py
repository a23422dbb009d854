"""AWS Glue's catalogue, by which Athena, Trino and others find the lake: entries of its tables and views.

A table is registered as Athena and Trino register a Delta table; its columns are told, because views on it and Lake
Formation go by them. A view is what Athena and Trino themselves keep in Glue: their SQL in a comment, base64 of JSON.

Entries of ours bear a mark, the parameter `trs_lake` with the lake's location. Others are never touched.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from processors.entries.ddl import CATALOG
from processors.entries.entry import Column, Entry
from processors.entries.types import hive_type, trino_type
from processors.errors import AccessDeniedError, RetryableError, TrsError, UnavailableError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient

MARK = "trs_lake"
PERSONAL = "trs_personal_data"
"""Parameter of tables that hold personal data, `true`; all others have `false`."""
DOC = "trs_doc"
"""Parameter of views: what the view holds."""
_ATTEMPTS = 5
_LONGEST_COLUMN_COMMENT = 255
_LONGEST_DESCRIPTION = 2048
_MOVED = frozenset({"AlreadyExistsException", "ConcurrentModificationException", "EntityNotFoundException"})
"""Somebody else changed the database between our reading and writing."""
_SAYS = {
    "created": "creates {} (glue:CreateTable)",
    "changed": "changes {} (glue:UpdateTable)",
    "removed": "removes {} (glue:DeleteTable)",
}
_DENIED = (
    "AccessDenied",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "InvalidSignature",
    "ExpiredToken",
    "NotSigned",
)
_BUSY = ("Throttling", "TooManyRequests", "InternalService", "ServiceUnavailable", "OperationTimeout")


@dataclass(frozen=True)
class GlueDatabase:
    """A database of Glue and how to reach it; without keys boto3 finds credentials by itself (the task role)."""

    name: str
    region: str
    endpoint: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Registration:
    """What was done, or would be: names of entries."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]


class _MovedOnError(Exception):
    """The database is not as it was read."""


class Catalogue:
    """One database of Glue."""

    def __init__(self, database: GlueDatabase) -> None:
        self._database = database
        self._client = _client(database)

    def register(
        self, lake_uri: str, entries: Sequence[Entry], *, create_database: bool = False, dry_run: bool = False
    ) -> Registration:
        """Makes the database say of the lake what the entries say: creates, changes, removes entries of ours.

        Nothing is changed when an entry of another has a name of ours (UsageError), or the database is missing and
        shall not be created (UsageError). Raises AccessDeniedError, UnavailableError, RetryableError.
        """
        wanted = {entry.name: table_input(entry, lake_uri, self._database.name) for entry in entries}
        done: set[tuple[str, str]] = set()
        for _ in range(_ATTEMPTS):
            present = self._read(create=create_database, dry_run=dry_run)
            plan = self._plan(wanted, present, lake_uri)
            applied = plan if dry_run else self._apply(plan, wanted, present)
            done |= applied
            if applied == plan:
                return _registration(done, tuple(wanted))
        raise RetryableError(f"Glue database {self._database.name}: others keep changing it", hint="try again")

    def _read(self, *, create: bool, dry_run: bool) -> dict[str, Mapping[str, Any]]:
        """The entries that there are, by name."""
        name = self._database.name
        with self._errors("reads its entries (glue:GetTables)"):
            pages = self._client.get_paginator("get_tables").paginate(DatabaseName=name)
            try:
                return {table["Name"]: table for page in pages for table in page["TableList"]}
            except self._client.exceptions.EntityNotFoundException:
                if not create:
                    raise UsageError(
                        f"there is no database {name} in Glue",
                        hint="--create-database makes it, TRS_GLUE_DATABASE names another",
                    ) from None
        if not dry_run:
            with suppress(_MovedOnError), self._errors("creates it (glue:CreateDatabase)"):
                self._client.create_database(
                    DatabaseInput={"Name": name, "Description": "Tables and views of a trs-stream lake."}
                )
        return {}

    def _plan(
        self, wanted: Mapping[str, Any], present: Mapping[str, Mapping[str, Any]], lake_uri: str
    ) -> set[tuple[str, str]]:
        """Names, each with what is to be done: created, changed or removed. Raises UsageError for foreign entries."""
        marks = {name: table.get("Parameters", {}).get(MARK) for name, table in present.items()}
        foreign = {name: marks[name] for name in wanted if name in marks and marks[name] != lake_uri}
        if foreign:
            name, mark = next(iter(foreign.items()))
            owner = "not made by `trs lake register`" if mark is None else f"of the lake {mark}"
            more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise UsageError(
                f"Glue has {self._database.name}.{name}{more}, which is {owner}; nothing was changed",
                hint="drop it there, or let TRS_GLUE_DATABASE name another database",
            )
        removed = {(name, "removed") for name, mark in marks.items() if mark == lake_uri and name not in wanted}
        created = {(name, "created") for name in wanted if name not in present}
        known = wanted.keys() & present.keys()
        return removed | created | {(n, "changed") for n in known if _said(present[n]) != _said(wanted[n])}

    def _apply(
        self, plan: Set[tuple[str, str]], wanted: Mapping[str, Any], present: Mapping[str, Mapping[str, Any]]
    ) -> set[tuple[str, str]]:
        """What of the plan was done; the rest somebody else did meanwhile, or something else."""
        done = set()
        for name, action in sorted(plan):
            with suppress(_MovedOnError), self._errors(_SAYS[action].format(name)):
                self._change(name, action, wanted, present)
                done.add((name, action))
        return done

    def _change(
        self, name: str, action: str, wanted: Mapping[str, Any], present: Mapping[str, Mapping[str, Any]]
    ) -> None:
        database = self._database.name
        if action == "removed":
            self._client.delete_table(DatabaseName=database, Name=name)
        elif action == "created":
            self._client.create_table(DatabaseName=database, TableInput=wanted[name])
        else:
            kept = {key: present[name][key] for key in ("Owner", "Retention") if key in present[name]}
            parameters = {**present[name].get("Parameters", {}), **wanted[name]["Parameters"]}
            changed: Any = {**kept, **wanted[name], "Parameters": parameters}
            self._client.update_table(DatabaseName=database, TableInput=changed)

    @contextmanager
    def _errors(self, does: str) -> Iterator[None]:
        """Turns the errors of botocore into ours. Faults that pass were tried again by botocore before."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        what = f"Glue database {self._database.name}, which `trs lake register` {does}"
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _MOVED:
                raise _MovedOnError from error
            raise _wrapped(code, error.response.get("Error", {}).get("Message", ""), what) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AccessDeniedError(
                f"{what}: there are no credentials", hint="set AWS_PROFILE or a role; for another server TRS_AWS_*"
            ) from error
        except BotoCoreError as error:
            raise UnavailableError(
                f"{what}: {' '.join(str(error).split())}", hint="check TRS_AWS_REGION, TRS_GLUE_ENDPOINT"
            ) from error


def _registration(done: Set[tuple[str, str]], wanted: tuple[str, ...]) -> Registration:
    """What was done as people read it, in the order of the entries."""
    order = {name: place for place, name in enumerate(wanted)}
    by_action = {
        action: tuple(sorted((n for n, a in done if a == action), key=lambda n: (order.get(n, -1), n)))
        for action in _SAYS
    }
    touched = {*by_action["created"], *by_action["changed"]}
    return Registration(**by_action, unchanged=tuple(name for name in wanted if name not in touched))


def table_input(entry: Entry, lake_uri: str, database: str) -> dict[str, Any]:
    """The entry as Glue takes it."""
    said: dict[str, Any] = {
        "Name": entry.name,
        "Parameters": {MARK: lake_uri},
        "PartitionKeys": [],
    }
    columns = [_glue_column(column) for column in entry.columns]
    if entry.query is not None:
        # Trino takes an entry for a view by this comment, and a description for a comment: so it has none.
        said["TableType"] = "VIRTUAL_VIEW"
        said["Parameters"] |= {"presto_view": "true", "comment": "Presto View", DOC: entry.doc}
        said["ViewOriginalText"] = f"/* Presto View: {_view_text(entry, database)} */"
        said["ViewExpandedText"] = "/* Presto View */"
        said["StorageDescriptor"] = {"Columns": columns, "Location": "", "SerdeInfo": {"Parameters": {}}}
        return said
    location = f"{lake_uri}/{entry.name}"
    said["Description"] = entry.doc[:_LONGEST_DESCRIPTION]
    said["TableType"] = "EXTERNAL_TABLE"
    said["Parameters"] |= {
        "EXTERNAL": "TRUE",
        "table_type": "DELTA",
        "spark.sql.sources.provider": "delta",
        "comment": entry.doc,
        PERSONAL: "true" if entry.personal else "false",
    }
    said["StorageDescriptor"] = {
        "Columns": columns,  # those of partitions too: Delta's log tells the partitions
        "Location": location,
        "InputFormat": "org.apache.hadoop.mapred.SequenceFileInputFormat",
        "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat",
        "SerdeInfo": {
            "SerializationLibrary": "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
            "Parameters": {"path": location, "serialization.format": "1"},
        },
    }
    return said


def _glue_column(column: Column) -> dict[str, str]:
    comment = column.comment
    if len(comment) > _LONGEST_COLUMN_COMMENT:
        comment = comment[: _LONGEST_COLUMN_COMMENT - 1] + "…"
    return {"Name": column.name, "Type": hive_type(column.kind), "Comment": comment}


def _view_text(entry: Entry, database: str) -> str:
    view = {
        "originalSql": entry.query,
        "catalog": CATALOG,
        "schema": database,
        "columns": [
            {"name": c.name, "type": trino_type(c.kind, zone=False), "comment": c.comment} for c in entry.columns
        ],
        "comment": entry.doc,
        "runAsInvoker": True,
    }
    return base64.b64encode(json.dumps(view).encode()).decode()


def _said(table: Mapping[str, Any]) -> dict[str, Any]:
    """What of an entry we say; parameters of others are left aside."""
    stored = table.get("StorageDescriptor", {})
    serde = stored.get("SerdeInfo", {})
    ours = (MARK, PERSONAL, DOC, "EXTERNAL", "table_type", "spark.sql.sources.provider", "comment", "presto_view")
    return {
        "parameters": {key: table.get("Parameters", {}).get(key) for key in ours},
        "columns": [(c["Name"], c.get("Type"), c.get("Comment") or "") for c in stored.get("Columns", ())],
        "partitions": [c["Name"] for c in table.get("PartitionKeys", ())],
        "serde": (serde.get("SerializationLibrary") or "", dict(serde.get("Parameters", {}))),
        **{key: table.get(key) or "" for key in ("Description", "TableType", "ViewOriginalText", "ViewExpandedText")},
        **{key: stored.get(key) or "" for key in ("Location", "InputFormat", "OutputFormat")},
    }


def _wrapped(code: str, message: str, what: str) -> TrsError:
    line = " ".join(message.split())[:300] or code
    if any(word in code for word in _DENIED):
        return AccessDeniedError(
            f"{what}: {line}", hint="check the role or TRS_AWS_*, its policy and Lake Formation's grants"
        )
    if any(word in code for word in _BUSY):
        return RetryableError(f"{what}: {code}: {line}")
    return TrsError(f"{what}: {code}: {line}")


def _client(database: GlueDatabase) -> "GlueClient":
    import boto3
    from botocore.config import Config

    return boto3.client(
        "glue",
        region_name=database.region,
        endpoint_url=database.endpoint,
        aws_access_key_id=database.access_key,
        aws_secret_access_key=database.secret_key,
        config=Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 8}),
    )
