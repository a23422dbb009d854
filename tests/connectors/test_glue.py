"""The lake's entries in Glue, on a server that stores them: what is created, changed, removed, and what never is."""

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import boto3
import pyarrow as pa
import pytest
from werkzeug.serving import make_server

from connectors.glue import MARK, Catalogue, GlueDatabase, Registration
from devstack.s3_server import application
from processors.entries.entry import Column, Entry, declared_schemas, lake_entries
from processors.errors import AccessDeniedError, RetryableError, TrsError, UnavailableError, UsageError
from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
from tests.scripted_http import Script

LAKE = "s3://bucket/lake"
TABLE = Entry("sales", "What was sold.", (Column("id", pa.int64(), "Number."),))
VIEW = Entry("latest", "The latest.", (Column("id", pa.int64(), "Number."),), "SELECT id FROM sales", reads=("sales",))
KEYS = {"region": "us-east-1", "access_key": "a", "secret_key": "b"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, application(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def glue(url: str) -> Any:
    return boto3.client(
        "glue", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )


@pytest.fixture
def database(url: str, request: pytest.FixtureRequest) -> GlueDatabase:
    """A database of the test's own, which is not there yet."""
    return GlueDatabase(request.node.name.lower()[:200], endpoint=url, **KEYS)


@pytest.fixture
def catalogue(database: GlueDatabase) -> Catalogue:
    """The same, made and empty."""
    catalogue = Catalogue(database)
    catalogue.register(LAKE, [], create_database=True)
    return catalogue


def entries_in(glue: Any, database: GlueDatabase) -> dict[str, dict[str, Any]]:
    return {t["Name"]: t for t in glue.get_tables(DatabaseName=database.name)["TableList"]}


def test_second_registration_changes_nothing_and_says_so(
    catalogue: Catalogue, glue: Any, database: GlueDatabase
) -> None:
    entries = lake_entries(declared_schemas())
    names = tuple(entry.name for entry in entries)
    assert catalogue.register(LAKE, entries) == Registration(names, (), (), ())
    before = entries_in(glue, database)
    assert catalogue.register(LAKE, entries) == Registration((), (), names, ())
    assert entries_in(glue, database) == before
    assert before.keys() == set(names)
    marked = {n for n, t in before.items() if t["Parameters"].get("trs_personal_data") == "true"}
    assert marked == PERSONAL_TABLES
    comments = [c["Comment"] for t in before.values() for c in t["StorageDescriptor"]["Columns"]]
    assert all(0 < len(comment) <= 255 for comment in comments)


def test_table_is_registered_as_athena_and_trino_register_a_delta_table(
    catalogue: Catalogue, glue: Any, database: GlueDatabase
) -> None:
    entries = lake_entries({"sku_log": LAKE_TABLES["sku_log"].schema})
    catalogue.register(LAKE, [e for e in entries if e.query is None])
    table = entries_in(glue, database)["sku_log"]
    assert table["TableType"] == "EXTERNAL_TABLE"
    wanted = {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"}
    assert wanted.items() <= table["Parameters"].items()
    stored = table["StorageDescriptor"]
    assert stored["Location"] == stored["SerdeInfo"]["Parameters"]["path"] == "s3://bucket/lake/sku_log"
    columns = {c["Name"]: c["Type"] for c in stored["Columns"]}
    assert list(columns) == LAKE_TABLES["sku_log"].schema.names
    assert columns["item_cost_price"] == "decimal(20,10)"
    assert columns["source_ts"] == "timestamp"
    assert columns["prices"] == (
        "array<struct<row_order:decimal(38,0),row_offset:bigint,item_retail_price:decimal(20,10),source_ts:timestamp>>"
    )


def test_view_is_kept_as_athena_and_trino_keep_theirs(catalogue: Catalogue, glue: Any, database: GlueDatabase) -> None:
    catalogue.register(LAKE, [TABLE, VIEW])
    view = entries_in(glue, database)["latest"]
    assert view["TableType"] == "VIRTUAL_VIEW"
    assert {"presto_view": "true", "comment": "Presto View"}.items() <= view["Parameters"].items()
    assert "Description" not in view, "Trino would take it for the comment and the view for a table"
    text = view["ViewOriginalText"].removeprefix("/* Presto View: ").removesuffix(" */")
    assert json.loads(base64.b64decode(text)) == {
        "originalSql": "SELECT id FROM sales",
        "catalog": "awsdatacatalog",
        "schema": database.name,
        "columns": [{"name": "id", "type": "bigint", "comment": "Number."}],
        "comment": "The latest.",
        "runAsInvoker": True,
    }


@pytest.mark.parametrize(
    "changed",
    [
        replace(TABLE, doc="Something else."),
        replace(TABLE, columns=(*TABLE.columns, Column("added", pa.string(), ""))),
        replace(TABLE, columns=(Column("id", pa.int64(), "Another comment."),)),
        replace(TABLE, columns=(Column("id", pa.int32(), "Number."),)),
        replace(TABLE, personal=True),
        replace(VIEW, doc="Something else."),
        replace(VIEW, query="SELECT max(id) AS id FROM sales"),
    ],
)
def test_what_is_declared_anew_is_changed_and_nothing_else(
    catalogue: Catalogue, glue: Any, database: GlueDatabase, changed: Entry
) -> None:
    catalogue.register(LAKE, [TABLE, VIEW])
    other = TABLE if changed.name == VIEW.name else VIEW
    before = entries_in(glue, database)[other.name]
    done = catalogue.register(LAKE, [changed, other])
    assert done == Registration((), (changed.name,), (other.name,), ())
    assert catalogue.register(LAKE, [changed, other]).unchanged == (changed.name, other.name)
    assert entries_in(glue, database)[other.name] == before


def test_parameters_of_others_stay_when_an_entry_changes(
    catalogue: Catalogue, glue: Any, database: GlueDatabase
) -> None:
    catalogue.register(LAKE, [TABLE])
    table = entries_in(glue, database)["sales"]
    kept = {key: table[key] for key in ("Name", "Description", "TableType", "StorageDescriptor", "PartitionKeys")}
    theirs = {"Parameters": {**table["Parameters"], "classification": "theirs"}, "Owner": "somebody"}
    glue.update_table(DatabaseName=database.name, TableInput={**kept, **theirs})
    assert catalogue.register(LAKE, [TABLE]).unchanged == ("sales",)
    assert catalogue.register(LAKE, [replace(TABLE, doc="New.")]).changed == ("sales",)
    changed = entries_in(glue, database)["sales"]
    assert (changed["Parameters"]["classification"], changed["Owner"]) == ("theirs", "somebody")
    assert changed["Description"] == "New."


def test_entries_of_ours_that_are_gone_are_removed_and_those_of_others_never(
    catalogue: Catalogue, glue: Any, database: GlueDatabase
) -> None:
    glue.create_table(DatabaseName=database.name, TableInput={"Name": "theirs"})
    glue.create_table(
        DatabaseName=database.name, TableInput={"Name": "elsewhere", "Parameters": {MARK: "s3://bucket/other"}}
    )
    catalogue.register(LAKE, [TABLE, VIEW])
    assert catalogue.register(LAKE, [TABLE]) == Registration((), (), ("sales",), ("latest",))
    assert entries_in(glue, database).keys() == {"theirs", "elsewhere", "sales"}


@pytest.mark.parametrize("parameters", [{}, {MARK: "s3://bucket/other"}])
def test_name_that_is_taken_by_another_stops_everything_before_it_begins(
    catalogue: Catalogue, glue: Any, database: GlueDatabase, parameters: dict[str, str]
) -> None:
    glue.create_table(DatabaseName=database.name, TableInput={"Name": "latest", "Parameters": parameters})
    before = entries_in(glue, database)
    with pytest.raises(UsageError, match=r"latest, which is (not made by|of the lake s3://bucket/other)"):
        catalogue.register(LAKE, [TABLE, VIEW])
    assert entries_in(glue, database) == before


def test_missing_database_is_told_and_made_only_on_demand(glue: Any, database: GlueDatabase) -> None:
    catalogue = Catalogue(database)
    with pytest.raises(UsageError, match=r"no database .* in Glue.*--create-database"):
        catalogue.register(LAKE, [TABLE])
    rehearsed = catalogue.register(LAKE, [TABLE], create_database=True, dry_run=True)
    assert rehearsed == Registration(("sales",), (), (), ())
    assert database.name not in {d["Name"] for d in glue.get_databases()["DatabaseList"]}
    assert catalogue.register(LAKE, [TABLE], create_database=True) == rehearsed
    assert catalogue.register(LAKE, [TABLE], create_database=True).unchanged == ("sales",)


def test_dry_run_tells_what_would_change_and_changes_nothing(
    catalogue: Catalogue, glue: Any, database: GlueDatabase
) -> None:
    catalogue.register(LAKE, [TABLE, VIEW])
    before = entries_in(glue, database)
    wanted = [replace(TABLE, doc="New."), replace(TABLE, name="added")]
    told = catalogue.register(LAKE, wanted, dry_run=True)
    assert told == Registration(("added",), ("sales",), (), ("latest",))
    assert entries_in(glue, database) == before
    assert catalogue.register(LAKE, wanted) == told


def test_registrations_at_once_end_with_every_entry(catalogue: Catalogue, glue: Any, database: GlueDatabase) -> None:
    entries = [replace(TABLE, name=f"t{number}") for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: Catalogue(database).register(LAKE, entries), range(4)))
    assert entries_in(glue, database).keys() == {entry.name for entry in entries}
    assert all(sorted(d.created + d.changed + d.unchanged) == sorted(e.name for e in entries) for d in done)


def refusal(code: str) -> bytes:
    return json.dumps({"__type": code, "Message": f"about {code}"}).encode()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDeniedException", AccessDeniedError),
        ("UnrecognizedClientException", AccessDeniedError),
        ("ExpiredTokenException", AccessDeniedError),
        ("ResourceNumberLimitExceededException", TrsError),
    ],
)
def test_refusal_names_the_database_and_the_reason(code: str, kind: type[TrsError]) -> None:
    with Script((400, refusal(code))) as server:
        database = GlueDatabase("shop", endpoint=f"http://{server.address}", **KEYS)
        with pytest.raises(kind, match=rf"Glue database shop.*glue:GetTables.*about {code}") as refused:
            Catalogue(database).register(LAKE, [TABLE])
    assert type(refused.value) is kind


def test_throttled_requests_are_sent_again() -> None:
    throttled = (400, refusal("ThrottlingException"))
    with Script(throttled, throttled, (200, {"TableList": []})) as server:
        database = GlueDatabase("shop", endpoint=f"http://{server.address}", **KEYS)
        assert Catalogue(database).register(LAKE, [TABLE], dry_run=True).created == ("sales",)
        assert len(server.asked) == 3


def test_entry_that_somebody_else_made_meanwhile_is_looked_at_again() -> None:
    taken = (400, refusal("AlreadyExistsException"))
    with Script((200, {"TableList": []}), taken, (200, {"TableList": []}), (200, {})) as server:
        database = GlueDatabase("shop", endpoint=f"http://{server.address}", **KEYS)
        assert Catalogue(database).register(LAKE, [TABLE]).created == ("sales",)
    endless = [(200, {"TableList": []}), taken] * 5
    with Script(*endless) as server:
        database = GlueDatabase("shop", endpoint=f"http://{server.address}", **KEYS)
        with pytest.raises(RetryableError, match="others keep changing it"):
            Catalogue(database).register(LAKE, [TABLE])


def test_nobody_there_is_told_with_the_settings_that_name_it() -> None:
    with pytest.raises(UnavailableError, match="TRS_GLUE_ENDPOINT"):
        Catalogue(GlueDatabase("shop", endpoint="http://127.0.0.1:9", **KEYS)).register(LAKE, [TABLE])


def test_keys_are_not_shown() -> None:
    assert "hidden" not in repr(GlueDatabase("shop", region="us-east-1", access_key="hidden", secret_key="hidden"))
