"""A real Trino reads the lake from Glue: every table and view answers as it does in DuckDB, whoever made its entry."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
import duckdb
import pytest
from deltalake import Field
from trino.dbapi import Connection, connect

from app.lake_session import LakeSession
from app.settings import ENV_PREFIX, Settings
from app.wiring import lake_location
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeStore
from devstack import ports, processes
from devstack.declared import TRINO_CATALOG
from devstack.stack import start_part
from devstack.trino import Trino
from processors.entries.types import trino_type
from processors.features.as_of import as_of_statement
from processors.features.declarations import FEATURE_SETS
from processors.fold import all_that_waits
from processors.lake_tables import LAKE_TABLES, changes_name, reconstructed_name
from processors.views.catalog import VIEWS
from tests.app.commands import trs
from tests.processors.engine_shell import ACCOUNT, PREFIX, SKU, Shell, Topics, event
from tests.stack_helpers import environment
from tests.trs.test_finance_page import STATEMENTS

pytestmark = pytest.mark.timeout(600)
SIDE_BY_SIDE = 3
LEAVES = ("sku_prices", "invoice_line_items_mirror", "invoice_lines", "receivables_ageing", "account_features")
"""Views that between them read every internal one but that of the other feature set."""


@pytest.fixture(scope="module")
def settings(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake on S3 and a database in Glue that no other test shares."""
    unique = f"trino{datetime.now(UTC):%H%M%S%f}"
    own = {
        **stack,
        "TRS_HOME": str(tmp_path_factory.mktemp("home")),
        "TRS_TOPIC_PREFIX": PREFIX,
        "TRS_PARTITIONS": "1",
        "TRS_LAKE": f"s3://{unique}/lake",
        "TRS_GLUE_DATABASE": unique,
        "TRS_WEB_PORT": "0",
    }
    settings = Settings(**{name.removeprefix(ENV_PREFIX).lower(): value for name, value in own.items()})
    client("s3", settings).create_bucket(Bucket=unique)
    return settings


@pytest.fixture(scope="module")
def lake(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A small shop that the engine wrote: a fold, changes of every kind beyond it, and a reconstructed past."""
    delta, topics, folder = DeltaLake(lake_location(settings)), Topics(), tmp_path_factory.mktemp("spill")
    fill(topics)
    for number, change_all in enumerate((None, change)):
        if change_all is not None:
            change_all(topics)
        shell = Shell(delta, topics, folder / str(number))
        shell.settle()
        shell.engine.stop()
        if number == 0:
            with duckdb.connect() as con:
                delta.prepare(con)
                assert fold_all(delta, con, 1, all_that_waits())
    command(settings, "bootstrap", "backfill")
    command(settings, "lake", "check", "--record", ends=(0, 16))
    return settings


def fill(topics: Topics) -> None:
    """Thirty invoices of three accounts; of five articles one is unknown. One record cannot be read."""
    for n, price in enumerate(("2.5", "-0.0000000001", "9999999999.9999999999", "1")):
        topics.add("skus", event("skus", "r", n, SKU | {"item_id": f"i{n}", "item_retail_price": price}))
    for n in range(3):
        topics.add("accounts", event("accounts", "r", 100 + n, ACCOUNT | {"account_id": n, "company_name": f"Ü'{n}"}))
    for n in range(30):
        paid = None if n % 4 == 0 else 18010 + n * 30 + n % 50
        row = {"invoice_id": n, "account_id": n % 3, "date_issued": 18010 + n * 30, "payment_dates": paid}
        topics.add("invoices", event("invoices", "c", 200 + n, row))
        for line in range(n % 5):
            row = {"invoice_id": n, "item_id": f"i{(n + line) % 5}", "quantity": n - 5}
            topics.add("invoice_line_items", event("invoice_line_items", "c", 300 + 10 * n + line, row))
    topics.add("invoices", b"no row event")


def change(topics: Topics) -> None:
    """A price, a payment, a move, deletions, and a column that is not declared."""
    topics.add("skus", event("skus", "u", 1000, SKU | {"item_id": "i0", "item_retail_price": "3", "colour": "red"}))
    topics.add("skus", event("skus", "d", 1001, SKU | {"item_id": "i3"}))
    topics.add("accounts", event("accounts", "d", 1002, ACCOUNT | {"account_id": 2}))
    moved = {"invoice_id": 4, "account_id": 0, "date_issued": 18200, "payment_dates": 18300, "note": "moved"}
    topics.add("invoices", event("invoices", "u", 1003, moved), event("invoices", "d", 1004, moved | {"invoice_id": 9}))
    line = {"invoice_id": 7, "item_id": "i2", "quantity": 2}
    topics.add("invoice_line_items", event("invoice_line_items", "d", 1005, line))
    topics.add("invoice_line_items", event("invoice_line_items", "c", 1006, line))


@pytest.fixture(scope="module")
def server(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trino]:
    """A Trino that reads the stack's S3 and Glue."""
    folder = tmp_path_factory.mktemp("trino-home") / "devstack"
    folder.mkdir()
    numbers = ports.assign(folder / "ports.json", needed=Trino.port_names, in_use=())
    s3 = urlsplit(stack["TRS_AWS_ENDPOINT"]).port
    assert s3 is not None
    part = Trino(folder, {**numbers, "s3": s3})
    try:
        start_part(part)
        yield part
    finally:
        processes.stop(part.record, timeout_s=part.stop_timeout_s)


@pytest.fixture(scope="module")
def registered(server: Trino, lake: Settings) -> Settings:
    """The lake, registered."""
    done = register(lake, "--create-database")
    assert done.endswith(f"{len(LAKE_TABLES) + len(VIEWS)} created, 0 changed, 0 unchanged, 0 removed")
    return lake


def client(service: str, settings: Settings) -> Any:
    assert settings.aws_access_key is not None and settings.aws_secret_key is not None
    return boto3.client(
        service,
        endpoint_url=settings.aws_endpoint,
        aws_access_key_id=settings.aws_access_key.get_secret_value(),
        aws_secret_access_key=settings.aws_secret_key.get_secret_value(),
        region_name=settings.aws_region,
    )


def command(settings: Settings, *arguments: str, ends: tuple[int, ...] = (0,)) -> str:
    """What a command of `trs` prints with these settings."""
    variables = {n: v for n, v in environment(settings).items() if n.startswith("TRS_")}
    answer = trs(*arguments, **variables)
    assert answer.code in ends, answer.err
    return answer.out


def register(settings: Settings, *arguments: str) -> str:
    """The last line that `trs lake register` prints: what it did."""
    return command(settings, "lake", "register", *arguments).splitlines()[-1]


def connected(server: Trino, schema: str) -> Connection:
    return connect(
        host="127.0.0.1", port=server.port or 0, user="test", catalog=TRINO_CATALOG, schema=schema, timezone="UTC"
    )


def ask(server: Trino, schema: str, query: str) -> list[list[Any]]:
    with connected(server, schema) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return list(cursor.fetchall())


def rows(server: Trino, schema: str, name: str) -> Counter[tuple[Any, ...]]:
    return Counter(plain(row) for row in ask(server, schema, f"SELECT * FROM {name}"))


def plain(value: Any) -> Any:
    """A value of either engine: moments in UTC, without a zone, in milliseconds as Trino rounds them; the last digits
    of floats left aside, because each engine divides in its own way."""
    if isinstance(value, dict):
        return plain(list(value.values()))
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, datetime):
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return utc.replace(microsecond=0) + timedelta(milliseconds=(utc.microsecond + 500) // 1000)
    return value


def duckdb_rows(settings: Settings, names: list[str]) -> dict[str, Counter[tuple[Any, ...]]]:
    with LakeSession(settings) as session:
        session.create_views(names)
        return {name: Counter(plain(row) for row in session.con.sql(f"FROM {name}").fetchall()) for name in names}


def test_every_table_and_view_says_in_trino_what_it_says_in_duckdb(server: Trino, registered: Settings) -> None:
    names = [*LAKE_TABLES, *VIEWS]
    expected = duckdb_rows(registered, names)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = dict(
            zip(names, pool.map(lambda name: rows(server, registered.glue_database, name), names), strict=True)
        )
    assert [name for name in names if found[name] != expected[name]] == []
    assert [name for name in VIEWS if not expected[name]] == [], "a comparison of nothing with nothing"


def test_every_view_shows_its_columns_with_types_and_comments(server: Trino, registered: Settings) -> None:
    query = (
        "SELECT table_name, column_name, data_type, comment FROM information_schema.columns"
        f" WHERE table_schema = '{registered.glue_database}' ORDER BY table_name, ordinal_position"
    )
    shown = [tuple(row) for row in ask(server, registered.glue_database, query) if row[0] in VIEWS]
    assert shown == [
        (name, field.name, trino_type(field.type, zone=False), field.metadata[b"comment"].decode())
        for name, view in sorted(VIEWS.items())
        for field in view.schema
    ]


def test_features_as_of_a_time_are_in_trino_what_they_are_in_duckdb(server: Trino, registered: Settings) -> None:
    with LakeSession(registered) as session:
        for features in FEATURE_SETS:
            session.create_views([changes_name(features), reconstructed_name(features)])
            times = f"SELECT min(known_from) FROM {changes_name(features)}"
            ((time,),) = session.con.sql(times).fetchall()
            for axis in ("known", "valid"):
                here = as_of_statement(features, time=time, axis=axis)
                there = as_of_statement(features, time=time, axis=axis, engine="trino")
                expected = [plain(row) for row in session.con.sql(here).fetchall()]
                assert [plain(row) for row in ask(server, registered.glue_database, there)] == expected
                assert expected, (features.name, axis)


@pytest.mark.parametrize("heading", STATEMENTS)
def test_statement_of_the_finance_page_is_one_of_trinos(server: Trino, registered: Settings, heading: str) -> None:
    ask(server, registered.glue_database, f"EXPLAIN (TYPE VALIDATE) {STATEMENTS[heading]}")


@pytest.mark.long
def test_statements_executed_by_hand_make_the_same_tables_and_views(server: Trino, registered: Settings) -> None:
    by_hand = registered.model_copy(update={"glue_database": f"{registered.glue_database}_hand"})
    statements = command(by_hand, "lake", "ddl", "--engine", "trino").split(";\n\n")
    with connected(server, "information_schema") as connection:
        for statement in filter(str.strip, statements):
            cursor = connection.cursor()
            cursor.execute(statement)
            cursor.fetchall()
    expected = duckdb_rows(registered, list(LEAVES))
    for name in LEAVES:
        assert rows(server, by_hand.glue_database, name) == expected[name], name
    comments = (
        "SELECT table_name, column_name, data_type, comment FROM information_schema.columns"
        " WHERE table_schema = '{}' ORDER BY table_name, ordinal_position"
    )
    shown = [
        [row for row in ask(server, s.glue_database, comments.format(s.glue_database)) if row[0] in LEAVES]
        for s in (by_hand, registered)
    ]
    assert shown[0] == shown[1]


def test_column_that_was_added_is_readable_after_the_next_registration(server: Trino, registered: Settings) -> None:
    table = LakeStore(lake_location(registered)).open("dead_letters")
    table.alter.add_columns([Field("colour", "string")])
    assert "1 changed" in register(registered)
    assert register(registered).endswith(f"{len(LAKE_TABLES) + len(VIEWS)} unchanged, 0 removed")
    assert set(map(tuple, ask(server, registered.glue_database, "SELECT colour FROM dead_letters"))) == {(None,)}
    columns = client("glue", registered).get_table(DatabaseName=registered.glue_database, Name="dead_letters")["Table"]
    assert {"Name": "colour", "Type": "string"} in [
        {"Name": c["Name"], "Type": c["Type"]} for c in columns["StorageDescriptor"]["Columns"]
    ]
