"""Where a worker's pages are: whoever reads while it is written finds a whole address."""

import json
import os
import threading
from pathlib import Path

from app.pages_file import PagesFile


def test_address_is_never_found_half_written(tmp_path: Path) -> None:
    pages, ended = PagesFile(tmp_path), threading.Event()
    pages.write("127.0.0.1", 1)

    def write_again_and_again() -> None:
        port = 1
        while not ended.is_set():
            port = port % 60_000 + 1
            pages.write("127.0.0.1", port)

    writer = threading.Thread(target=write_again_and_again)
    writer.start()
    try:
        for _ in range(5_000):
            (file,) = tmp_path.glob("worker-*.json")
            assert json.loads(file.read_text(encoding="utf-8"))["pid"] == os.getpid()
    finally:
        ended.set()
        writer.join()
    pages.remove()
    assert list(tmp_path.iterdir()) == []
