"""The benchmark of a diff, small: it finds the lines that it changed, on the stack."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_diff_is_measured_with_the_lines_that_were_changed(stack: dict[str, str], tmp_path: Path) -> None:
    result = tmp_path / "diff.json"
    command = ("-m", "benchmarks.diff", "--invoices", "200", "--per-mille", "50", "--json", str(result))
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | stack, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = {row["measure"]: row["value"] for row in json.loads(result.read_text(encoding="utf-8"))["rows"]}
    assert 0 < told["changed lines found and sent"] < told["lines"]
