"""The main path on real parts: extracts, Kafka, workers, Delta in a folder or on S3; the batch job is the
oracle of whole tables."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.source import open_source
from connectors.kafka import watermarks
from connectors.mysql import DatabaseUrl, connect, ddl, execute, load_rows
from processors.errors import UsageError
from processors.features.declarations import FEATURE_SETS, INVOICE_FEATURES
from processors.features.labels import label_points
from processors.lake_tables import changes_name
from processors.tables import all_topics
from tests.stack_helpers import (
    batch_features,
    feed,
    owned_buckets,
    query,
    row_count,
    start_worker,
    trs,
    write_extracts,
)
from tests.waiting import wait_until

StartWorker = Callable[..., "subprocess.Popen[bytes]"]
CATCH_UP_S = 400
"""Far more than a quiet machine needs: a busy one shall not fail the tests."""
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """Extracts of a small synthetic shop."""
    return write_extracts(tmp_path / "extracts", invoices=400, seed=7)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Extracts to send: the synthetic shop, and the real ones where they are."""
    chosen: Path = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings with the lake on S3 or, much cheaper, in a folder."""
    chosen: Settings = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers; those that still run at the end of the test are killed."""
    running: list[subprocess.Popen[bytes]] = []

    def start(settings: Settings, *arguments: str) -> "subprocess.Popen[bytes]":
        process = start_worker(settings, tmp_path / f"worker-{len(running)}.log", *arguments)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def expected_tables(settings: Settings, folder: Path, tmp_path: Path) -> dict[str, pa.Table]:
    return {f.name: batch_features(settings, f"csv:{folder}", f, tmp_path) for f in FEATURE_SETS}


def stream_tables(settings: Settings) -> dict[str, pa.Table]:
    return {
        f.name: query(settings, f"SELECT {', '.join(f.column_names)} FROM {f.name} ORDER BY {f.entity_key[0]}")
        for f in FEATURE_SETS
    }


def history_rows(settings: Settings) -> dict[str, int]:
    return {f.name: row_count(settings, changes_name(f)) for f in FEATURE_SETS}


def differences(found: dict[str, pa.Table], expected: dict[str, pa.Table]) -> list[str]:
    """Columns whose names, types or values differ. Nullability does not count: it tells how a table was made."""
    return [
        f"{name}.{column}"
        for name, table in expected.items()
        for column in {*table.column_names, *found[name].column_names}
        if column not in table.column_names
        or column not in found[name].column_names
        or found[name][column].type != table[column].type
        or found[name][column].to_pylist() != table[column].to_pylist()
    ]


def assert_equal(found: dict[str, pa.Table], expected: dict[str, pa.Table]) -> None:
    assert all(table.num_rows > 0 for table in expected.values())
    assert [found[name].column_names for name in expected] == [t.column_names for t in expected.values()]
    assert differences(found, expected) == []


def assert_all_read(settings: Settings) -> None:
    """The lake stands at the end of every partition of every topic that the stages read."""
    ends = {
        p: end for p, (_, end) in watermarks(kafka_config(settings), all_topics(settings.topic_prefix)).items() if end
    }
    rows = query(
        settings,
        "SELECT o.topic, bucket, max(o.next_offset) AS next_offset"
        " FROM (SELECT bucket, unnest(offsets) AS o FROM epochs) GROUP BY ALL",
    ).to_pylist()
    assert ends == {(r["topic"], r["bucket"]): r["next_offset"] for r in rows if r["next_offset"]}


def assert_asked_by_time(settings: Settings) -> None:
    """Delta's versions can be read by number and by time, and labels of now get what the current rows say."""
    name = changes_name(INVOICE_FEATURES)
    with LakeSession(settings) as session:
        newest, before = session.delta_versions(name, 2).to_pylist()
        counts = [session.delta(name, version=v["version"]).num_rows for v in (newest, before)]
        assert counts == [session.delta(name, time=v["committed_at"]).num_rows for v in (newest, before)]
        assert counts[0] == row_count(settings, name)
        with pytest.raises(UsageError, match="begins with version 0"):
            session.delta(name, time=datetime(2001, 1, 1, tzinfo=UTC))
        current = session.run(session.as_of(INVOICE_FEATURES, None))
        labels = pa.table({"inv_id": current["inv_id"], "time": pa.array([session.read_at] * current.num_rows)})
        points = label_points(labels, INVOICE_FEATURES, entity=None, time="time")
        answer = session.training(INVOICE_FEATURES, points)
    assert all(answer[c].equals(current[c]) for c in INVOICE_FEATURES.column_names if c != "inv_id")
    assert pc.all(answer["has_features"]).as_py()


@pytest.mark.parametrize(
    ("folder", "settings"),
    [pytest.param("synthetic", "stack_settings", marks=pytest.mark.long), ("extracts", "local_settings")],
    indirect=True,
)
def test_stream_after_a_catch_up_equals_batch_and_a_second_feed_adds_nothing(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    expected = expected_tables(settings, folder, tmp_path)
    feed(settings, folder, run=1)
    trs(settings, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    assert_equal(stream_tables(settings), expected)
    assert_all_read(settings)
    before = history_rows(settings)
    assert_asked_by_time(settings)

    feed(settings, folder, run=2)
    trs(settings, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    assert_all_read(settings)
    assert history_rows(settings) == before
    assert_equal(stream_tables(settings), expected)

    trs(settings, "lake", "fold")
    assert row_count(settings, "invoice_features_folded") > expected["invoice_features"].num_rows
    assert_equal(stream_tables(settings), expected)
    trs(settings, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)  # recovers from the fold
    assert history_rows(settings) == before
    assert_equal(stream_tables(settings), expected)


@pytest.mark.parametrize("folder", ["synthetic", pytest.param("extracts", marks=pytest.mark.long)], indirect=True)
def test_stream_from_a_database_snapshot_equals_batch(local_settings: Settings, folder: Path, tmp_path: Path) -> None:
    settings = local_settings
    assert settings.database is not None
    url = settings.database.get_secret_value()
    source = open_source(f"csv:{folder}")
    source.preflight()
    connection = connect(DatabaseUrl.parse(url), autocommit=False)
    for table in source.tables():
        execute(connection, ddl(table))
        for chunk in source.chunks(table):
            load_rows(connection, table, chunk.rows)
    connection.commit()
    connection.close()
    source.close()

    trs(settings, "bootstrap", "snapshot", "--source", "mysql")
    trs(settings, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    assert_equal(stream_tables(settings), expected_tables(settings, folder, tmp_path))


@pytest.mark.parametrize("folder", ["synthetic", pytest.param("extracts", marks=pytest.mark.long)], indirect=True)
def test_worker_killed_amid_a_catch_up_goes_on_to_the_same_result(
    local_settings: Settings, folder: Path, tmp_path: Path, worker: StartWorker
) -> None:
    settings = local_settings.model_copy(
        update={"epoch_max_events": 5000 if folder.name == "trs_extracts" else 500, "epoch_interval_s": 0.1}
    )
    expected = expected_tables(settings, folder, tmp_path)
    feed(settings, folder, run=1)
    victim = worker(settings)
    wait_until(lambda: row_count(settings, "invoice_log") > 0, timeout_s=CATCH_UP_S, what="the log has rows")
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    committed = history_rows(settings)
    assert committed["invoice_features"] < expected["invoice_features"].num_rows, "killed too late to tell anything"

    trs(settings, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    assert_equal(stream_tables(settings), expected)
    assert_all_read(settings)
    for view, key in (("invoices", "invoice_id"), ("invoice_lines", "(invoice_id, item_id)"), ("skus", "item_id")):
        (count,) = query(settings, f"SELECT count(*) AS n, count(DISTINCT {key}) AS k FROM {view}").to_pylist()
        assert count["n"] == count["k"] > 0, view


def test_two_workers_share_the_partitions_and_give_the_same_result(
    local_settings: Settings, synthetic: Path, tmp_path: Path, worker: StartWorker
) -> None:
    homes = [local_settings.model_copy(update={"home": tmp_path / f"home-{n}"}) for n in range(2)]
    expected = expected_tables(local_settings, synthetic, tmp_path)
    workers = [worker(home) for home in homes]

    def shared() -> bool:
        owned = [owned_buckets(home, w) for home, w in zip(homes, workers, strict=True)]
        both = owned[0] | owned[1]
        return all(owned) and not owned[0] & owned[1] and both == set(range(local_settings.partitions))

    wait_until(shared, timeout_s=CATCH_UP_S, what="both workers own buckets")
    feed(local_settings, synthetic, run=1)
    wait_until(
        lambda: not differences(stream_tables(local_settings), expected),
        timeout_s=CATCH_UP_S,
        what="the features equal those of the batch job",
    )
    for process in workers:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in workers] == [0, 0]
    assert_equal(stream_tables(local_settings), expected)
    assert_all_read(local_settings)
    writers = query(local_settings, "SELECT DISTINCT writer FROM epochs WHERE rows > 0 AND stage = 'invoices'")
    assert writers.num_rows == 2, "one worker did all the work"
