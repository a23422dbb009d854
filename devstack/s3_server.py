"""`python -m devstack.s3_server STATE_FILE …`: moto's server with a memory: S3 and Glue in one quiet process.

moto keeps everything in memory. An orderly stop (SIGTERM) writes buckets and catalog to STATE_FILE, the next start
reads them; after a crash the content is that of the last orderly stop.
"""

import logging
import pickle
import sys
from pathlib import Path

from moto.glue.models import GlueBackend, glue_backends
from moto.s3.models import S3Backend, s3_backends
from moto.server import main


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


def serve(arguments: list[str]) -> None:
    """Serves until SIGTERM; the first argument is the state file, the others are moto's."""
    state_file, *others = arguments
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    load(Path(state_file))
    try:
        main(others)  # leaves by SystemExit on SIGTERM
    finally:
        save(Path(state_file))


if __name__ == "__main__":
    serve(sys.argv[1:])
