"""What a chaos run and a soak share: settings of a small machine, data to begin with, commands, the last words."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from app.generate import load_database
from app.settings import ENV_PREFIX, Settings
from batch_bootstrap.generate import Generated
from tests.stack_helpers import environment


def settings_of(stack: Mapping[str, str], **own: object) -> Settings:
    """Settings on a stack for workers with little memory and much upkeep; `own` ones by their names in Settings."""
    given = {name.removeprefix(ENV_PREFIX).lower(): value for name, value in stack.items()}
    shared = {"upkeep_budget_percent": 100, "web_port": 0, "threads": 1, "memory_mb": 200}
    return Settings(**{**given, **shared, **own})


def fill_source(settings: Settings, invoices: int, *, seed: int) -> str:
    """Makes a shop of so many invoices in the source; returns how many rows each table has."""
    assert settings.database is not None
    with Generated(invoices, seed=seed) as data:
        url = settings.database.get_secret_value()
        loaded = load_database(data, url, replace=False, report=lambda _t, _d, _n: None)
    return ", ".join(f"{rows} {table}" for table, rows in loaded.items())


def trs_logged(settings: Settings, logs: Path, *arguments: str, timeout_s: float) -> None:
    """Runs the `trs` command; its log in the folder is added to. Raises AssertionError when it fails."""
    logs.mkdir(exist_ok=True)
    log = logs / f"{arguments[0]}.log"
    with log.open("ab") as out:
        command = [sys.executable, "-m", "app.cli.main", *arguments]
        done = subprocess.run(
            command, env=environment(settings), stdout=out, stderr=out, timeout=timeout_s, check=False
        )
    assert done.returncode == 0, f"trs {' '.join(arguments)} ended with code {done.returncode}, see {log}"


def conclude(console: Console, problems: Sequence[str], folder: Path, *, good: str, keep: bool) -> int:
    """Prints the problems, or what is `good` without any, and removes the folder then; returns the exit code."""
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if problems:
        console.print(f"FAILED; everything is in {folder}", style="bold red")
        return 1
    console.print(good, style="bold green")
    if not keep:
        shutil.rmtree(folder)
    return 0
