"""What a cut-over makes of what it finds: connectors, lakes, runs, its own notes.

The source is empty, so that no worker is needed, and Kafka Connect's REST API is served from data; whole cut-overs are
in tests/stack.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from app.connector import plan_connector
from app.cutover import Options, run_cutover
from app.cutover_state import CutoverState
from app.settings import Settings
from batch_bootstrap.diff import Watcher
from connectors.mysql import DatabaseUrl, connect, ddl, execute
from processors.errors import UsageError
from processors.tables import TABLES
from tests.small_connect import Kept, SmallConnect

FAR = {"file": "binlog.999999", "pos": 4}
"""A place behind all that the server will write."""


@pytest.fixture
def kafka_connect() -> Iterator[SmallConnect]:
    server = SmallConnect()
    server.world.position = FAR
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def shop(local_settings: Settings, kafka_connect: SmallConnect) -> Settings:
    """A source whose tables are empty."""
    own = local_settings.model_copy(update={"connect": SecretStr(kafka_connect.url), "connector": "c", "partitions": 2})
    assert own.database is not None
    with connect(DatabaseUrl.parse(own.database.get_secret_value())) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
    return own


def cut_over(
    settings: Settings, *, through: str | None = None, told: list[str] | None = None, **options: Any
) -> CutoverState:
    """Performs the steps, asked to stop in the step `through` if it is given."""
    lines = [] if told is None else told
    watcher = Watcher(announce=lines.append, stopped=lambda: any(line.startswith(f"{through}: ") for line in lines))
    return run_cutover(settings, Options(wait_s=20, **{"settle_s": 1.0} | options), watcher)


def planned_config(settings: Settings) -> dict[str, str]:
    return plan_connector(settings, snapshot="no_data").config


# A connector of that name that is there already


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("database.include.list", r"the database elsewhere and not trs_\w+"),
        ("topic.prefix", "the source's name elsewhere and not aurora"),
        ("transforms.route.replacement", r"the topics elsewhere and not t\w+\.trs"),
        ("database.hostname", "reads elsewhere:"),
    ],
)
def test_connector_of_something_else_under_the_same_name_is_refused_and_left_alone(
    shop: Settings, kafka_connect: SmallConnect, option: str, said: str
) -> None:
    theirs = planned_config(shop) | {option: "elsewhere"}
    kafka_connect.world.connectors["c"] = Kept(theirs, position=FAR)
    with pytest.raises(UsageError, match=said):
        cut_over(shop, through="connector")
    assert kafka_connect.world.written == []


def test_connector_with_other_settings_gets_those_of_today(shop: Settings, kafka_connect: SmallConnect) -> None:
    planned = planned_config(shop)
    kafka_connect.world.connectors["c"] = Kept(planned | {"poll.interval.ms": "500", "old": "x"}, position=FAR)
    state = cut_over(shop, through="connector")
    assert kafka_connect.world.connectors["c"].config == planned
    assert state.steps["connector"].facts["reconfigured"] is True


def test_paused_connector_gets_the_settings_of_today_and_goes_on(shop: Settings, kafka_connect: SmallConnect) -> None:
    old = planned_config(shop) | {"poll.interval.ms": "500"}
    kafka_connect.world.connectors["c"] = Kept(old, "PAUSED", position=FAR)
    cut_over(shop, through="connector")
    assert kafka_connect.world.connectors["c"] == Kept(planned_config(shop), "RUNNING", position=FAR)


def test_connector_that_only_began_in_another_way_is_not_touched(shop: Settings, kafka_connect: SmallConnect) -> None:
    began = {**planned_config(shop), "snapshot.mode": "initial"}
    del began["snapshot.locking.mode"]
    kafka_connect.world.connectors["c"] = Kept(began, position=FAR)
    state = cut_over(shop, through="connector")
    assert kafka_connect.world.written == []
    assert state.steps["connector"].facts["registered_before"] is True
