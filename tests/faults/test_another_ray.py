"""Workers of embedded Ray find their own cluster, even if another Ray runs or has run on this machine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.http_serving import serving

AGENT_PORT = 52365
"""Where the dashboard agents of all nodes listen by default."""
PROGRAM = """
import json
import sys

from rayworks.cluster import places
from rayworks.cluster.embedded import EmbeddedRay

places.prepare()
import ray

embedded = EmbeddedRay()
with_dashboard = bool(sys.argv[1:])
dashboard = {} if with_dashboard else {"include_dashboard": False}
embedded.acquire({}, {"num_cpus": 1, "object_store_memory": 100_000_000, **dashboard})


@ray.remote(num_cpus=0)
class Controller:
    def seen_as(self) -> str:
        from ray.util.state import get_actor
        from ray.util.state.exception import RayStateApiException

        try:
            actor = get_actor(ray.get_runtime_context().get_actor_id(), timeout=5)
        except RayStateApiException:
            return "NO RESPONSE"
        return actor.state if actor else "UNKNOWN"


if with_dashboard:
    import urllib.request

    address = embedded.dashboard()
    with urllib.request.urlopen(address + "/api/version", timeout=30) as response:
        print("DASHBOARD", response.status)
    with urllib.request.urlopen(address + "/api/v0/logs?node_id=" + ray.nodes()[0]["NodeID"], timeout=30) as response:
        print("LOGS", json.load(response)["data"]["result"])
else:
    print("DASHBOARD", embedded.dashboard())
print("SEEN AS", ray.get(Controller.remote().seen_as.remote()))
embedded.release()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for Ray's sessions, with a short path for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rayworks-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def dashboard() -> Iterator[None]:
    """A dashboard on Ray's default port that knows no actor."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            no_actors = {"result": [], "total": 0, "num_after_truncation": 0, "num_filtered": 0}
            self.wfile.write(json.dumps({"result": True, "msg": "", "data": {"result": no_actors}}).encode())

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # the dashboard of another Ray already uses the port
            stack.enter_context(serving(Handler, port=8265))
        yield


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr[-3000:]


def test_workers_query_their_own_ray_after_another_was_started_on_the_machine(folder: Path):
    (folder / "ray").mkdir()
    # `ray start` writes this file, and leaves it behind when it is killed.
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    output = run(folder, "with a dashboard")
    assert "DASHBOARD 200" in output, output
    assert "SEEN AS ALIVE" in output, output


def test_the_dashboard_of_a_second_ray_on_the_machine_shows_the_logs_of_its_node(folder: Path):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # the agent of another Ray already uses the port
            stack.enter_context(socket.create_server(("", AGENT_PORT)))
        output = run(folder, "with a dashboard")
    assert "'raylet.out'" in output, output


def test_workers_of_a_ray_without_a_dashboard_do_not_query_the_dashboard_of_another(folder: Path, dashboard: None):
    output = run(folder)
    assert "DASHBOARD None" in output, output
    assert "SEEN AS NO RESPONSE" in output, output
