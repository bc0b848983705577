"""An address at which a server responds or is away, as a test wants it."""

import select
import socket
from socketserver import ThreadingTCPServer
from threading import Event, Thread
from typing import Self
from urllib.parse import urlsplit


class Forwarder(ThreadingTCPServer):
    """Forwards connections to a server, which can be away: then it ends each connection.

    Args:
        server_url: The URL of the server.
    """

    daemon_threads = True

    def __init__(self, server_url: str) -> None:
        super().__init__(("127.0.0.1", 0), self._forward)
        self._server = urlsplit(server_url)
        self.url = f"http://127.0.0.1:{self.server_address[1]}{self._server.path}"
        self.is_away, self.refused = Event(), 0

    def _forward(self, connection: socket.socket, *_: object) -> None:
        if self.is_away.is_set():
            self.refused += 1
            return
        with socket.create_connection((self._server.hostname, self._server.port)) as server:
            others = {connection: server, server: connection}
            while not self.is_away.is_set():
                for one in select.select(others, [], [], 1)[0]:
                    received = one.recv(65536)
                    if self.is_away.is_set() or not received:
                        return
                    others[one].sendall(received)

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
