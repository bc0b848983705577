"""A stand-in for the Prefect API: the seams are in Prefect's client, and a real server takes long to start."""

import http.server
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from prefect.events.schemas.events import Event


class Api(http.server.ThreadingHTTPServer):
    """Accepts every POST request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[tuple[str, object]] = []
        """Path and JSON of each request."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/api"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        import prefect

        if self.path.endswith("/version"):
            self._respond(HTTPStatus.OK, prefect.__version__)
        else:
            self._respond(HTTPStatus.NOT_FOUND, {})  # as a server without CSRF protection

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.posted.append((self.path, json.loads(body) if body else None))
        self._respond(HTTPStatus.CREATED, {})

    def _respond(self, status: HTTPStatus, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    """An API that this process uses until the end of the test."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with Api() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: server.url}):
            yield server
        server.shutdown()


class Collected:
    """The log lines and events of this process."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.events: list[Event] = []

    def put(self, item: "tuple[str, Event]") -> None:
        self.events.append(item[1])


@pytest.fixture
def collected(api: Api) -> Iterator[Collected]:
    """What this process logs and emits until the end of the test."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import set_api_log_sink

    collected = Collected()
    from rayworks.runner import _private

    _private.collect_logs_and_events(collected.lines.append, collected)
    yield collected
    set_api_log_sink(None)
    EventsWorker.set_client_override(None)
