"""What a cut-over makes of what it finds: connectors, lakes, runs, its own notes.

The source is empty, so that no worker is needed, and Kafka Connect's REST API is served from data; whole cut-overs are
in tests/stack.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.bootstrap import open_control_log
from app.connector import plan_connector
from app.cutover import STEPS, Options, run_cutover, state_file
from app.cutover_state import CutoverState, StateFile, StepRecord, now
from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.diff import Watcher
from connectors.kafka import partition_counts
from connectors.mysql import DatabaseUrl, connect, ddl, execute
from processors.errors import ConnectError, RetryableError, SourceError, UsageError
from processors.tables import TABLES, all_topics
from tests.app.commands import trs
from tests.small_connect import Kept, SmallConnect
from tests.stack_helpers import environment
from tests.waiting import wait_until

FAR = {"file": "binlog.999999", "pos": 4}
"""A place behind all that the server will write."""
NEAR = {"file": "binlog.000001", "pos": 4}


@pytest.fixture
def kafka_connect() -> Iterator[SmallConnect]:
    server = SmallConnect()
    server.world.position = FAR
    yield server
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
    settings: Settings,
    *,
    through: str | None = None,
    at: tuple[str, Callable[[], Any]] | None = None,
    told: list[str] | None = None,
    **options: Any,
) -> CutoverState:
    """Performs the steps, asked to stop in the step `through`; `at`: a step at whose beginning something happens."""
    lines = [] if told is None else told

    def announce(line: str) -> None:
        lines.append(line)
        if at is not None and line.startswith(f"{at[0]}: "):
            at[1]()

    watcher = Watcher(announce=announce, stopped=lambda: any(line.startswith(f"{through}: ") for line in lines))
    return run_cutover(settings, Options(wait_s=20, **{"settle_s": 0.1} | options), watcher)


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


# How the rows are brought


def kinds(settings: Settings) -> list[str]:
    """The runs that the lake knows, in their order."""
    entries = open_control_log(settings).entries()
    return [entry.detail.get("kind", "snapshot") for entry in entries if entry.kind == "run_opened"]


def test_cut_over_of_an_empty_source_does_every_step_once(shop: Settings, kafka_connect: SmallConnect) -> None:
    first = cut_over(shop)
    assert (list(first.steps), first.method, first.finished_at is not None) == (list(STEPS), "snapshot", True)
    told: list[str] = []
    second = cut_over(shop, told=told, method="diff")
    assert (second.finished_at, second.method, second.attempts) == (first.finished_at, "snapshot", 2)
    assert "--again" in told[-1]
    again = cut_over(shop, again=True)
    assert (again.attempts, again.method, kinds(shop)) == (1, "diff", ["snapshot", "diff"])
    assert kafka_connect.world.written == ["PUT /connectors/c/config"]


def test_other_method_brings_the_rows_again_unless_the_cut_over_is_finished(shop: Settings) -> None:
    assert cut_over(shop, through="lag", method="snapshot").finished_at is None
    state = cut_over(shop, method="diff")
    assert (state.finished_at is not None, state.method, kinds(shop)) == (True, "diff", ["snapshot", "diff"])
    assert state.steps["rows"].facts["with"] == "diff"


def test_run_that_ended_well_but_was_not_noted_is_found_if_it_was_of_the_method(shop: Settings) -> None:
    done = cut_over(shop, through="lag", method="snapshot")
    del done.steps["rows"]
    state_file(shop).save(done)
    found = cut_over(shop, through="lag")
    assert (found.steps["rows"].facts["found_finished"], kinds(shop)) == (True, ["snapshot"])
    assert "found_finished" not in cut_over(shop, through="lag", method="diff").steps["rows"].facts


# The place after the rows


def test_connector_that_rests_or_is_gone_has_not_passed_the_rows_and_one_that_is_made_anew_needs_them_again(
    shop: Settings, kafka_connect: SmallConnect
) -> None:
    kafka_connect.world.position = NEAR
    with pytest.raises(ConnectError, match=r"connector c does not run: it is paused.*trs cutover"):
        cut_over(shop, at=("lag", lambda: setattr(kafka_connect.world.connectors["c"], "state", "PAUSED")))
    with pytest.raises(ConnectError, match="connector c does not run: it is gone"):
        cut_over(shop, at=("lag", kafka_connect.world.connectors.clear))
    assert kafka_connect.world.written == ["PUT /connectors/c/config", "PUT /connectors/c/resume"]
    assert kinds(shop) == ["snapshot"]
    told: list[str] = []
    state = cut_over(shop, told=told)
    assert "c is gone from Kafka Connect: the rows are sent again once it runs" in told
    assert (state.finished_at is not None, kinds(shop)) == (True, ["snapshot", "diff"])
    assert state.steps["lag"].facts["passed"] is False
    assert any("has not noted binlog." in line for line in told)


def test_connector_that_fails_is_told_with_its_reason_and_gone_on_with_once_it_is_mended(
    shop: Settings, kafka_connect: SmallConnect
) -> None:
    kafka_connect.world.position = None
    broken = partial(setattr, kafka_connect.world, "failure", "a.B: binlog is gone, said trs-devstack")
    with pytest.raises(ConnectError, match=r"connector c failed: a\.B: binlog is gone, said \*\*\*"):
        cut_over(shop, at=("connector", broken))
    kafka_connect.world.connectors["c"] = Kept(kafka_connect.world.connectors["c"].config, position=FAR)
    assert "connector" in cut_over(shop, through="connector").steps


# The lake


def test_other_lake_gets_the_rows_again(shop: Settings, tmp_path: Path) -> None:
    assert cut_over(shop).finished_at is not None
    other = shop.model_copy(update={"lake": str(tmp_path / "other")})
    told: list[str] = []
    state = cut_over(other, told=told)
    assert "the lake is another one than before: the rows are sent again" in told
    assert (state.finished_at is not None, kinds(other)) == (True, ["snapshot"])


def test_snapshot_that_somebody_began_before_the_connector_is_not_counted(shop: Settings) -> None:
    control = open_control_log(shop)
    run = control.open_run("aurora", {"source": "theirs"})
    with pytest.raises(SourceError, match=f"run {run} of theirs is open, and began before.*trs bootstrap snapshot"):
        cut_over(shop)
    control.close_run(run, {"rows": {}})
    assert cut_over(shop, through="lag").steps["rows"].facts["run"] == run + 1


# The command


def test_plan_shows_the_steps_and_changes_nothing(shop: Settings, kafka_connect: SmallConnect, tmp_path: Path) -> None:
    variables = {name: value for name, value in environment(shop).items() if name.startswith("TRS_")}
    asked = kafka_connect.world.asked
    before = sorted(tmp_path.rglob("*"))
    for arguments in (("--plan",), ("--status",), ("--plan", "--again", "--with", "diff")):
        answer = trs("cutover", *arguments, **variables)
        assert (answer.code, "not begun" in answer.out) == (0, True)
        assert all(step in answer.out for step in STEPS)
    assert (sorted(tmp_path.rglob("*")), asked) == (before, [])
    assert partition_counts(kafka_config(shop), all_topics(shop.topic_prefix)) == {}

    cut_over(shop, through="connector")
    held, count = state_file(shop).path.read_bytes(), len(asked)
    shown = json.loads(trs("cutover", "--plan", "--json", **variables).out)
    assert (list(shown["steps"]), shown["attempts"]) == (["preflight", "connector"], 1)
    assert (state_file(shop).path.read_bytes(), len(asked)) == (held, count)


def test_signal_in_a_step_ends_the_command_and_the_next_goes_on(shop: Settings, kafka_connect: SmallConnect) -> None:
    kafka_connect.world.position = None
    command = [sys.executable, "-m", "app.cli.main", "cutover"]
    process = subprocess.Popen(
        command, env=environment(shop), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: "c" in kafka_connect.world.connectors, timeout_s=60, what="it waits for a position")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "goes on when the same command is given again" in said
    state = state_file(shop).load()
    assert state is not None
    assert (list(state.steps), state.finished_at) == (["preflight"], None)
    kafka_connect.world.connectors["c"].position = FAR
    assert list(cut_over(shop, through="connector").steps) == ["preflight", "connector"]


# Its own notes


@pytest.mark.parametrize("text", ['{"connector": "c", "steps": {}, "of_tomorrow": 1}', '{"conn', "[]", '{"steps": {}}'])
def test_state_of_another_version_does_not_count_and_is_told(tmp_path: Path, text: str) -> None:
    file = StateFile(tmp_path, "c")
    file.path.write_text(text)
    told: list[str] = []
    assert file.load(told.append) is None
    assert told == [f"{file.path} is not of this version: it does not count"]


def test_state_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    state = CutoverState("c", "mysql", "diff", now(), 3, 7, "g", {"rows": StepRecord(now(), 1.5, {"run": 8})})
    file = StateFile(tmp_path / "new", "c")
    assert file.load() is None
    file.save(state)
    assert file.load() == state


def test_second_cut_over_on_a_machine_is_refused_while_one_runs(tmp_path: Path) -> None:
    file = StateFile(tmp_path, "c")
    with file.alone(), pytest.raises(RetryableError, match=r"another cut-over runs.*--status"), file.alone():
        pass
    with file.alone():
        pass
