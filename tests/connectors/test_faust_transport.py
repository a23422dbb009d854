"""The consumer's thread: while records are unpacked its loop goes on; where it ends before its time."""

import asyncio
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.protocol.metadata import MetadataResponse_v1
from faust.types import TP

import connectors.faust_fetch
import connectors.faust_transport
from connectors.faust_transport import BatchConsumerThread, Fetched, check_way_to_brokers
from connectors.kafka_records import RecordColumns, read_blocks
from processors.errors import UnavailableError
from tests.connectors.test_faust_fetch import PLACE, fetched, record_batch


class EndedThread:
    """What is left of a thread whose broker was away as it began."""

    def __init__(self) -> None:
        self._leaving = asyncio.Event()
        self.thread_loop = asyncio.new_event_loop()
        self.thread_loop.close()


def test_leaving_a_thread_that_has_ended_is_no_error() -> None:
    BatchConsumerThread.leave(EndedThread())  # type: ignore[arg-type]


def thread_with(records: dict[Any, Any], *, fetch_bytes: int = 8 << 20) -> tuple[Any, Any]:
    """A consumer's thread, as far as fetching needs it, and a client that has fetched these records."""
    subscriptions = SimpleNamespace(fetch_context=nullcontext, reassignment_in_progress=False)
    fetcher = SimpleNamespace(
        _records=records,
        _closed=False,
        _check_crcs=True,
        _subscriptions=subscriptions,
        _notify=lambda waiter: None,
        _wait_consume_future=None,
    )
    thread = BatchConsumerThread.__new__(BatchConsumerThread)
    options = SimpleNamespace(fetch_bytes=fetch_bytes)
    thread.consumer = SimpleNamespace(rebalances=3, transport=SimpleNamespace(options=options))  # type: ignore[assignment]
    thread.sought = 3
    return thread, SimpleNamespace(_fetcher=fetcher, _closed=False)


def test_records_are_unpacked_while_the_loop_of_the_heartbeats_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = threading.Event()

    def read_after_a_beat(blocks: Any) -> RecordColumns:
        assert beat.wait(10), "the loop stood still while records were unpacked"
        return read_blocks(blocks)

    monkeypatch.setattr(connectors.faust_fetch, "read_blocks", read_after_a_beat)

    async def fetch() -> dict[TP, list[Fetched]]:
        thread, client = thread_with({PLACE: await fetched(record_batch([(0, 5, b"k", b"v")]), position=0)})
        asyncio.get_running_loop().call_soon(beat.set)
        answer: dict[TP, list[Fetched]] = await thread._fetch_records(client, {TP(*PLACE)})
        return answer

    [one] = asyncio.run(fetch())[TP(*PLACE)]
    assert (one.rebalance, one.batch.values.to_pylist()) == (3, [b"v"])


def test_of_much_that_was_fetched_each_call_takes_a_part_and_none_is_left_behind() -> None:
    places = [TP("aurora.trs.invoices", bucket) for bucket in range(5)]

    async def calls() -> list[list[TP]]:
        data = record_batch([(0, 5, None, b"v" * 100)], compression=0)
        thread, client = thread_with({p: await fetched(data, position=0, place=p) for p in places}, fetch_bytes=200)
        return [list(await thread._fetch_records(client, set(places))) for _ in range(3)]

    assert asyncio.run(calls()) == [places[:2], places[2:4], places[4:]]


@pytest.mark.parametrize(("little_bytes", "gathers"), [(0, False), (10_000, True)])
def test_after_little_the_next_records_gather_and_after_much_they_are_taken_at_once(
    little_bytes: int, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connectors.faust_transport, "_LITTLE_BYTES", little_bytes)
    monkeypatch.setattr(connectors.faust_transport, "_GATHER_S", 2.0)

    async def calls() -> float:
        data = record_batch([(0, 5, None, b"v" * 100)], compression=0)
        thread, client = thread_with({PLACE: await fetched(data, position=0)})
        assert await thread._fetch_records(client, {TP(*PLACE)})
        client._fetcher._records[PLACE] = await fetched(data, position=0)
        began_s = time.monotonic()
        assert await thread._fetch_records(client, {TP(*PLACE)})
        return time.monotonic() - began_s

    assert (asyncio.run(calls()) >= 1.9) is gathers


@pytest.mark.parametrize(
    ("bootstrapped", "brokers", "first_connection", "cut_off"),
    [
        (False, [], None, False),
        (True, [(1, "127.0.0.1", 9092, None)], None, False),
        (True, [], True, False),
        (True, [], False, True),
        (True, [], None, True),
    ],
)
def test_client_that_was_told_of_no_broker_and_has_lost_its_first_connection_is_cut_off(
    bootstrapped: bool, brokers: list[Any], first_connection: bool | None, cut_off: bool
) -> None:
    async def check() -> None:
        client = AIOKafkaClient()
        client._sync_task = asyncio.current_task() if bootstrapped else None
        client.cluster.update_metadata(MetadataResponse_v1(brokers, 1, []))
        if first_connection is not None:
            connection = SimpleNamespace(connected=lambda: first_connection)
            client._conns["bootstrap", ConnectionGroup.DEFAULT] = connection
        check_way_to_brokers(client)

    with pytest.raises(UnavailableError, match="named no broker") if cut_off else nullcontext():
        asyncio.run(check())
