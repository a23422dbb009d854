"""A worker stays below its memory budget whatever waits: millions of records, large ones, a state that spills."""

import time
from pathlib import Path

import pytest

from app.memory import least_mb
from app.settings import Settings
from benchmarks.catch_up import fill_topics
from benchmarks.usage import peak_rss_mb
from tests.app.worker_process import produce
from tests.stack_helpers import row_count, start_worker

_MIB_TO_MB = 1.048576
INVOICES, LARGE, LARGE_BYTES = 400_000, 300, 500_000


@pytest.mark.long
@pytest.mark.timeout(900)
def test_worker_behind_by_millions_of_records_and_large_ones_stays_below_its_budget(
    local_settings: Settings, tmp_path: Path
) -> None:
    budget_mb = least_mb(0) + 20
    settings = local_settings.model_copy(
        update={"memory_budget_mb": budget_mb, "upkeep_budget_percent": 0, "epoch_interval_s": 10.0, "threads": 2}
    )
    sent = fill_topics(settings, INVOICES)
    assert sent > 2 * 10**6
    produce(settings, "accounts", LARGE, size=LARGE_BYTES)
    log = tmp_path / "worker.log"
    settings.home.mkdir(exist_ok=True)
    worker = start_worker(settings, log, "--until-caught-up")
    peak_mb, spilled = 0.0, 0
    while worker.poll() is None:
        peak_mb = max(peak_mb, peak_rss_mb(worker.pid) * _MIB_TO_MB)
        spilled = max(spilled, sum(_size(f) for f in settings.home.glob("spill-*/*")))
        time.sleep(0.2)
    assert worker.returncode == 0, log.read_text()[-3000:]
    assert peak_mb < budget_mb, f"{sent:,} events"
    assert spilled > 0, "the state fits into memory: it proves nothing"
    assert row_count(settings, "invoice_features_changes") >= INVOICES
    assert row_count(settings, "dead_letters") == LARGE


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
