"""A Prefect server that restarts while a run starts does not fail the run."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayworks.cluster.preflight import Preflight
from rayworks.errors import ClusterError

pytestmark = pytest.mark.usefixtures("ray_session")


class Api(ThreadingHTTPServer):
    """Answers 503 to the first requests, and then 200."""

    failures = 0
    """How many requests it still fails."""


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.server.failures -= 1
        self.send_response(200 if self.server.failures < 0 else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_api_that_responds_is_asked_once(api: Api):
    Preflight(f"http://127.0.0.1:{api.server_port}", None).check(shared_storage=False)
    assert api.failures == -1


def test_workers_ask_again_once_the_driver_reaches_the_api(api: Api):
    api.failures = 3  # of the worker, and of the driver twice
    Preflight(f"http://127.0.0.1:{api.server_port}", None).check(shared_storage=False)
    assert api.failures < -1, "the worker has asked again"


def test_an_api_that_the_driver_reaches_and_the_workers_do_not_fails_the_run(api: Api, monkeypatch: pytest.MonkeyPatch):
    api.failures = 10**6
    monkeypatch.setattr("rayworks.cluster.preflight.api_problem", lambda _: "")  # the driver's view
    with pytest.raises(ClusterError, match="503 Service Unavailable"):
        Preflight(f"http://127.0.0.1:{api.server_port}", None).check(shared_storage=False)
