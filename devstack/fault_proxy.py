"""A proxy in front of an HTTP server (the S3 server) that fails on purpose, for tests.

Plain HTTP/1.1. Bodies stream both ways (sized, chunked, or until the connection ends), connections of clients are kept,
all headers pass: ranges, conditions and multipart uploads work as without it. Which request fails, and how, is drawn by
a seeded generator from the faults of the moment. Requests that run side by side are drawn in the order in which they
arrive, so a seed repeats a run only as far as the clients repeat theirs.

| fault          | the server                  | the client                                                       |
| -------------- | --------------------------- | ---------------------------------------------------------------- |
| slow           | does it, `wait_s` later     | gets the answer                                                  |
| refuse_500/503 | never hears of it           | gets a 500 or a 503                                              |
| drop           | never hears of it           | sees the connection end at once                                  |
| cut_request    | never hears of it           | sees the connection end in the middle of its body                |
| cut_answer     | does it                     | sees the connection end in the middle of the answer              |
| deny_500       | does it                     | gets a 500                                                       |
| drop_answer    | does it                     | sees the connection end without an answer                        |
| hang           | does it                     | waits `wait_s`, then sees the connection end                     |
"""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from devstack.declared import HOST
from devstack.http_messages import Body, Head, body_of_answer, body_of_request, read_head


class Fault(StrEnum):
    """What happens to a request; see the table above."""

    SLOW = "slow"
    REFUSE_500 = "refuse_500"
    REFUSE_503 = "refuse_503"
    DROP = "drop"
    CUT_REQUEST = "cut_request"
    CUT_ANSWER = "cut_answer"
    DENY_500 = "deny_500"
    DROP_ANSWER = "drop_answer"
    HANG = "hang"


_STATUS = {
    Fault.REFUSE_500: "500 Internal Server Error",
    Fault.REFUSE_503: "503 Slow Down",
    Fault.DENY_500: "500 Internal Server Error",
}
_NOT_FORWARDED = {Fault.REFUSE_500, Fault.REFUSE_503, Fault.DROP, Fault.CUT_REQUEST}


@dataclass(frozen=True)
class Weather:
    """The faults of the moment: each request meets one of `faults` with probability `rate`."""

    faults: tuple[Fault, ...] = ()
    rate: float = 0.0
    wait_s: float = 1.0


class FaultProxy:
    """Listens on a port of its own from `start` to `stop`, in a thread of its own. All methods are thread-safe."""

    def __init__(self, *, upstream_port: int, seed: int, port: int = 0) -> None:
        """`upstream_port`: where the server listens on the loopback address; `port` 0: a free one is chosen."""
        self.port = port
        self.met: Counter[str] = Counter()
        self.requests = 0
        self.asked: Counter[str] = Counter()
        """Requests by method; S3's listings, which are GETs too, as `LIST`."""
        self._upstream_port = upstream_port
        self._shut = False
        self._under_way = 0
        self.weather = Weather()
        self._random = random.Random(seed)  # noqa: S311 - repeatable faults, not a secret
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        """Ends every connection."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, weather: Weather) -> None:
        """Requests that arrive from now on meet these faults."""
        self.weather = weather

    def clear(self) -> None:
        """No more faults; those that are under way take their course."""
        self.weather = Weather()

    def shut(self) -> None:
        """Drops every request from now on; returns once none is under way, so that the server may be restarted."""
        self._call(self._quiesce())

    def reopen(self) -> None:
        """Ends `shut`."""
        self._shut = False

    async def _quiesce(self) -> None:
        self._shut = True
        while self._under_way:
            await asyncio.sleep(0.01)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # either side went away: the other one sees its connection end
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; returns whether the client's connection can go on."""
        request = await read_head(reader)
        if request is None or self._shut:
            return False
        self.requests += 1
        self.asked["LIST" if "list-type=2" in request.first else request.method] += 1
        weather = self.weather
        fault = self._draw(weather)
        if request.header("expect").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = body_of_request(request, reader)
        if fault in _NOT_FORWARDED:
            return await self._refuse(fault, body, writer)
        self._under_way += 1
        try:
            if fault is Fault.SLOW:
                await asyncio.sleep(weather.wait_s)
            return await self._forward(request, body, fault, weather, writer)
        finally:
            self._under_way -= 1

    async def _forward(
        self, request: Head, body: Body, fault: Fault | None, weather: Weather, writer: asyncio.StreamWriter
    ) -> bool:
        up_reader, up_writer = await asyncio.open_connection(HOST, self._upstream_port)
        try:
            up_writer.write(request.without("connection", "expect").with_("Connection", "close").encode())
            await body.copy_to(up_writer)
            answer = await read_head(up_reader)
            if answer is None:
                return False
            answer_body = body_of_answer(answer, up_reader, method=request.method)
            if fault in (None, Fault.SLOW):
                return await self._answer(answer, answer_body, writer)
            return await self._spoil(fault, weather, answer, answer_body, writer)
        finally:
            up_writer.close()
            with contextlib.suppress(OSError):
                await up_writer.wait_closed()

    def _draw(self, weather: Weather) -> Fault | None:
        if not weather.faults or self._random.random() >= weather.rate:
            return None
        fault = self._random.choice(weather.faults)
        self.met[fault] += 1
        return fault

    async def _refuse(self, fault: Fault | None, body: Body, writer: asyncio.StreamWriter) -> bool:
        if fault is Fault.DROP:
            return False
        if fault is Fault.CUT_REQUEST:
            await body.read_part()
            return False
        await body.drain()
        return await _send_status(fault, writer)

    async def _answer(self, answer: Head, body: Body, writer: asyncio.StreamWriter) -> bool:
        keep = body.has_end
        writer.write(answer.without("connection").with_("Connection", "keep-alive" if keep else "close").encode())
        await body.copy_to(writer)
        await writer.drain()
        return keep

    async def _spoil(
        self, fault: Fault | None, weather: Weather, answer: Head, body: Body, writer: asyncio.StreamWriter
    ) -> bool:
        """The server has done what was asked; the client shall not know."""
        if fault is Fault.CUT_ANSWER:
            part = await body.read_part()
            begun = answer.encode() + part[: (len(part) + 1) // 2] if part else b"HTTP/1.1"
            writer.write(begun)
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.close()
            return False
        await body.drain()
        if fault is Fault.DENY_500:
            return await _send_status(fault, writer)
        if fault is Fault.HANG:
            await asyncio.sleep(weather.wait_s)
        return False


async def _send_status(fault: Fault | None, writer: asyncio.StreamWriter) -> bool:
    assert fault is not None
    text = b"<Error><Code>InjectedFault</Code></Error>"
    head = f"HTTP/1.1 {_STATUS[fault]}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n"
    writer.write(head.encode() + text)
    await writer.drain()
    return True
