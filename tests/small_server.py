"""An HTTP server of a test's own on 127.0.0.1 that serves from its making until it is closed, or its block ends."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SmallServer(ThreadingHTTPServer):
    """Serves in a thread of its own; `port` 0: a free one."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_close(self) -> None:
        """Ends the thread first, which would ask a closed socket for ever and take a core."""
        self.shutdown()
        super().server_close()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        """http://HOST:PORT."""
        return f"http://{self.address}"


class QuietHandler(BaseHTTPRequestHandler):
    """Prints nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""
