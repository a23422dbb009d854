"""The little of HTTP/1.1 (RFC 9112) that a proxy needs: heads, and bodies that stream without being understood."""

import asyncio
from dataclasses import dataclass

CHUNK_BYTES = 65_536
_LIMIT_BYTES = 65_536
"""Longest head; asyncio's own limit of a line."""


@dataclass(frozen=True)
class Head:
    """The first line and the header fields of a message, in their order."""

    first: str
    fields: tuple[tuple[str, str], ...]

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ", 1)[0].upper()

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split(" ", 2)[1])

    def header(self, name: str) -> str:
        """The value of a field, empty without it; `name` in lower case."""
        return next((value for key, value in self.fields if key.lower() == name), "")

    def without(self, *names: str) -> "Head":
        """Without these fields; names in lower case."""
        return Head(self.first, tuple(f for f in self.fields if f[0].lower() not in names))

    def with_(self, name: str, value: str) -> "Head":
        """With one more field."""
        return Head(self.first, (*self.fields, (name, value)))

    def encode(self) -> bytes:
        """As it goes over the wire, the empty line included."""
        lines = [self.first, *(f"{key}: {value}" for key, value in self.fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None when the connection ended before one began. Raises EOFError when it ended amid one."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise EOFError(f"a head of more than {_LIMIT_BYTES} bytes") from error
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = [line.partition(":") for line in lines]
    return Head(first, tuple((key.strip(), value.strip()) for key, _, value in fields))


class Body:
    """What follows a head, as raw bytes: `size` of them, or chunks up to the last, or (both None) all there is."""

    def __init__(self, reader: asyncio.StreamReader, *, size: int | None, chunked: bool = False) -> None:
        self._reader = reader
        self._left = size
        self._chunked = chunked
        self._done = size == 0

    @property
    def has_end(self) -> bool:
        """Whether the end shows without the connection's end."""
        return self._chunked or self._left is not None

    async def read_part(self) -> bytes:
        """Some bytes, framing of chunks included; empty at the end. Raises EOFError when the sender went away."""
        if self._done:
            return b""
        if self._chunked:
            return await self._read_chunk()
        part = await self._reader.read(CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left))
        if self._left is not None:
            if not part:
                raise EOFError("the connection ended amid a body")
            self._left -= len(part)
        self._done = not part if self._left is None else self._left == 0
        return part

    async def _read_chunk(self) -> bytes:
        line = await self._reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size > 0:
            return line + await self._reader.readexactly(size + 2)
        self._done = True
        while (trailer := await self._reader.readuntil(b"\r\n")) != b"\r\n":
            line += trailer
        return line + trailer

    async def copy_to(self, writer: asyncio.StreamWriter) -> None:
        """Writes all of it as it comes."""
        while part := await self.read_part():
            writer.write(part)
            await writer.drain()

    async def drain(self) -> None:
        """Reads all of it and forgets it."""
        while await self.read_part():
            pass


def body_of_request(head: Head, reader: asyncio.StreamReader) -> Body:
    """The body that follows a request's head."""
    if head.header("transfer-encoding").lower() == "chunked":
        return Body(reader, size=None, chunked=True)
    return Body(reader, size=int(head.header("content-length") or 0))


def body_of_answer(head: Head, reader: asyncio.StreamReader, *, method: str) -> Body:
    """The body that follows an answer's head."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return Body(reader, size=0)
    if head.header("transfer-encoding").lower() == "chunked":
        return Body(reader, size=None, chunked=True)
    size = head.header("content-length")
    return Body(reader, size=int(size) if size else None)
