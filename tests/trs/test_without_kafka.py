"""Whoever reads the lake needs no Kafka packages: notebooks and the reading commands do without the extra `worker`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_lake import SmallLake

WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("aiokafka", "confluent_kafka", "faust", "mode", "rocksdict"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    small = SmallLake(tmp_path / "lake")
    small.feature(1, "2024-05-01")
    small.epoch("accounts", 0, 1, "2024-05-20")
    return small


def run(lake: SmallLake, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRS_LAKE": lake.uri}
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_notebook_reads_without_kafka(lake: SmallLake) -> None:
    code = """
from trs import lake
assert lake.as_of("2024-05-02").num_rows == 1
assert lake.compare("2024-04-01", "2024-05-02").rows.num_rows == 1
assert lake.history_of(1).num_rows == 1
assert lake.sql("SELECT count(*) AS n FROM invoice_features").to_pylist() == [{"n": 1}]
lake.describe()
print("read")
"""
    done = run(lake, code)
    assert done.stdout.strip().endswith("read"), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("sql", "SELECT count(*) AS n FROM invoice_features", "--format", "csv"),
        ("features", "as-of", "2024-05-02", "--format", "csv"),
        ("lake", "check", "invoice_features"),
    ],
)
def test_reading_commands_do_without_kafka(lake: SmallLake, command: tuple[str, ...]) -> None:
    SmallLake(Path(lake.uri)).append("control_log", {"entry": 1, "kind": "generation"})
    done = run(lake, "from app.cli.main import main\nmain()", *command)
    assert done.returncode == 0, done.stderr


def test_command_that_needs_kafka_says_what_to_install(lake: SmallLake) -> None:
    done = run(lake, "from app.cli.main import main\nmain()", "status")
    assert (done.returncode, "trs-stream[worker]" in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
