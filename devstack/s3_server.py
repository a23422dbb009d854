"""`python -m devstack.s3_server STATE_FILE HOST PORT`: moto's S3 and Glue in one quiet process that remembers.

moto's own server finds out anew for every request which of two hundred services is meant, which costs more than the
request; here Glue is told by its header and everything else is S3. moto also looks whether a key exists and writes it
in two steps: of two writers that may only create a key (If-None-Match), both could succeed, and a commit of Delta would
be lost. Such requests go one at a time here.

moto keeps everything in memory. An orderly stop (SIGTERM) writes buckets and catalog to STATE_FILE, the next start
reads them; after a crash the content is that of the last orderly stop.
"""

import io
import logging
import pickle
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from moto.glue.models import GlueBackend, glue_backends
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.models import S3Backend, s3_backends
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def load(file: Path) -> None:
    """Fills moto's backends from the file, if there is one."""
    if not file.exists():
        return
    state = pickle.loads(file.read_bytes())  # noqa: S301  (written by `save` below)
    for (account, region), buckets in state["s3"].items():
        s3: S3Backend = s3_backends[account][region]
        for name, bucket in buckets.items():
            s3.create_bucket(name, bucket.region_name)  # makes the name known to all accounts
            s3.buckets[name] = bucket
    for (account, region), databases in state["glue"].items():
        glue: GlueBackend = glue_backends[account][region]
        glue.databases.update(databases)


def save(file: Path) -> None:
    """Writes what users made to the file, all or nothing."""
    state = {
        "s3": {(a, r): s3.buckets for a, regions in s3_backends.items() for r, s3 in regions.items()},
        "glue": {(a, r): glue.databases for a, regions in glue_backends.items() for r, glue in regions.items()},
    }
    temporary = file.with_suffix(".new")
    temporary.write_bytes(pickle.dumps(state))
    temporary.replace(file)


def application() -> "WSGIApplication":
    """S3, and Glue where the request names it."""
    s3, glue = create_backend_app("s3"), create_backend_app("glue")
    creating = threading.Lock()

    def dispatch(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        is_glue = str(environ.get("HTTP_X_AMZ_TARGET", "")).startswith("AWSGlue")
        if environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_NONE_MATCH" in environ:
            # The body first: nobody shall wait for a client that stops in the middle of it.
            size = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size))
            with creating:
                return list(s3(environ, start_response))
        return (glue if is_glue else s3)(environ, start_response)

    return dispatch


def serve(state_file: Path, host: str, port: int) -> None:
    """Serves until SIGTERM."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    load(state_file)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    MotoRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept
    try:
        run_simple(host, port, application(), threaded=True, request_handler=MotoRequestHandler)
    finally:
        save(state_file)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
