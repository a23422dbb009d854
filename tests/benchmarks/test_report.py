"""A benchmark's table and its JSON file."""

import io
import json
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.report import Row, number, publish


def test_a_report_is_a_table_and_a_file_that_names_the_machine_and_the_commit(tmp_path: Path) -> None:
    out = io.StringIO()
    rows = [
        Row("row events", 160_000.4, "events/s", peer_name="a peer", peer=8_000.0, ratio=20.00005),
        Row("peak memory", 812, "MB"),
    ]
    file = publish(
        "example", rows, {"invoices": 7}, file=tmp_path / "deep" / "own.json", console=Console(file=out, width=120)
    )
    assert file == tmp_path / "deep" / "own.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["benchmark"] == "example"
    assert written["invoices"] == 7
    assert written["cores"] > 0
    assert written["memory_gb"] > 0
    assert written["python"].startswith("3.")
    assert datetime.fromisoformat(written["date"]).tzinfo is not None
    assert written["machine"]
    assert "git_commit" in written
    assert written["rows"][0] == {
        "measure": "row events",
        "value": 160_000.4,
        "unit": "events/s",
        "peer_name": "a peer",
        "peer": 8_000.0,
        "ratio": 20.00005,
    }
    assert written["rows"][1]["peer"] is None
    lines = out.getvalue().splitlines()
    assert any(
        "160,000" in line and "events/s" in line and "a peer: 8,000" in line and "20.0" in line for line in lines
    )
    assert any("812" in line and "MB" in line for line in lines)


def test_results_go_to_build_bench_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.FOLDER.parts[-2:] == ("build", "bench")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    assert publish("example", [], console=Console(file=io.StringIO())) == tmp_path / "example.json"


@pytest.mark.parametrize(
    ("value", "text"), [(123_456.7, "123,457"), (12.345, "12.3"), (7, "7"), (0.01234, "0.0123"), (0.0, "0")]
)
def test_numbers_show_three_digits(value: float, text: str) -> None:
    assert number(value) == text
