"""An HTTP server in a thread, for what a test wants to be answered."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Serve on a port of this machine, by default a free one, without a line for each request. Yields the URL.

    Raises:
        OSError: The port is in use.
    """

    class Quiet(handler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
