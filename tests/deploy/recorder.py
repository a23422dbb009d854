"""Stands between our programs and the stack's S3 and Glue, and notes which actions of AWS the requests are."""

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.small_server import QuietHandler, SmallServer

_KEPT = frozenset({"content-length", "transfer-encoding", "connection", "host", "date", "server"})


@dataclass(frozen=True)
class Asked:
    """One action: of S3 with the resource's ARN, and the prefix of a listing; of others with the resource `*`."""

    action: str
    resource: str
    prefix: str | None = None


@dataclass
class Recorder:
    """`url` is what TRS_AWS_ENDPOINT shall be; `asked` everything since the last `clear`."""

    url: str
    asked: set[Asked] = field(default_factory=set)


@contextmanager
def recording(endpoint: str) -> Iterator[Recorder]:
    """Hands every request on to `endpoint` and its answer back, unchanged."""
    target = urlsplit(endpoint)
    recorder = Recorder("")

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            recorder.asked |= set(actions_of(self.command, self.path, dict(self.headers), body))
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            self.send_response(answer.status)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            for name, value in answer.getheaders():
                if name.lower() not in _KEPT:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that http.server asks for

    with SmallServer(Handler) as server:
        recorder.url = server.url
        yield recorder


def actions_of(method: str, path: str, headers: dict[str, str], body: bytes) -> Iterator[Asked]:
    """The actions of a request, by Amazon's table of actions for S3's operations. Raises AssertionError for others."""
    target = {name.lower(): value for name, value in headers.items()}.get("x-amz-target")
    if target is not None:
        service, _, operation = target.partition(".")
        yield Asked(f"{service.removeprefix('AWS').lower()}:{operation}", "*")
        return
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    if not key and method == "POST" and "delete" in query:
        for name in re.findall(rb"<Key>(.*?)</Key>", body):
            yield Asked("s3:DeleteObject", f"{resource}/{name.decode()}")
    elif not key:
        assert method == "GET", f"{method} {path}"
        yield Asked("s3:ListBucket", resource, query.get("prefix", [None])[0])
    elif method in ("GET", "HEAD"):
        yield Asked("s3:GetObject", resource)
    elif method == "PUT" or (method == "POST" and query.keys() & {"uploads", "uploadId"}):
        assert "x-amz-copy-source" not in {name.lower() for name in headers}, "a copy reads as well"
        yield Asked("s3:PutObject", resource)
    else:
        assert method == "DELETE", f"{method} {path}"
        yield Asked("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", resource)
