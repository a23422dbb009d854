"""How an engine ends that is stopped amid something, or cannot end as it should."""

import shutil
import time
from pathlib import Path

import duckdb
import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.engine import CLOSE_S
from processors.errors import RetryableError, UnavailableError
from processors.stages import SEND_RETRY_S
from processors.tables import DOCUMENTS_TOPIC
from tests.processors.engine_shell import PREFIX, SETTLE_S, Open, Shell, Sink, Topics, feature
from tests.waiting import wait_until


class BusyState:
    """What the state is while an opening, in the shell's thread, is in a call to DuckDB."""

    def close(self) -> None:
        raise duckdb.Error("connection is busy with another call")


def test_engine_that_is_stopped_amid_an_opening_ends_in_order(
    shell: Open, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shell(topics).engine
    with monkeypatch.context() as busy:
        busy.setattr(engine, "_state", BusyState())
        engine.stop()


def test_engine_whose_last_epoch_fails_tells_it_and_ends_its_threads_all_the_same(
    topics: Topics, location: LakeLocation, tmp_path: Path
) -> None:
    one = Shell(DeltaLake(location), topics, tmp_path / "spill")
    one.settle()
    shutil.rmtree(Path(location.uri) / "sku_log" / "_delta_log")
    with pytest.raises(RetryableError, match="sku_log"):
        one.engine.stop()
    assert not any(thread.is_alive() for thread in one.engine._threads)


class SilentSink(Sink):
    """A broker that takes documents and never acknowledges them."""

    flushes = 0

    def flush(self) -> dict[int, int]:
        self.flushes += 1
        raise UnavailableError("no acknowledgement")


@pytest.mark.parametrize("draining", [True, False])
def test_engine_that_is_stopped_while_no_document_is_acknowledged_ends_and_the_next_one_sends_them(
    shell: Open, topics: Topics, location: LakeLocation, draining: bool
) -> None:
    heard = topics.sinks[DOCUMENTS_TOPIC]
    silent = topics.sinks[DOCUMENTS_TOPIC] = SilentSink({}, f"{PREFIX}.{DOCUMENTS_TOPIC}")
    one = shell(topics, interval_s=None if draining else 0.05)
    one.offer_all()
    wait_until(lambda: silent.flushes > 0, timeout_s=SETTLE_S, what="documents are sent")
    began_s = time.monotonic()
    one.engine.stop()
    assert time.monotonic() - began_s < CLOSE_S + 2 * SEND_RETRY_S
    topics.sinks[DOCUMENTS_TOPIC] = heard
    shell(topics).settle()
    assert feature(location)["inv_items"] == 4
