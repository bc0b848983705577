"""Another Ray of this machine, or what one has left behind, does not mislead an embedded one."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

PROGRAM = """
import sys

from rayworks.cluster import places
from rayworks.cluster.embedded import EmbeddedRay

places.prepare()
import ray

embedded = EmbeddedRay()
dashboard = {} if sys.argv[1:] else {"include_dashboard": False}
embedded.acquire({}, {"num_cpus": 1, "object_store_memory": 100_000_000, **dashboard})


@ray.remote(num_cpus=0)
class Controller:
    def seen_as(self) -> str:
        from ray.util.state import get_actor
        from ray.util.state.exception import RayStateApiException

        try:
            found = get_actor(ray.get_runtime_context().get_actor_id(), timeout=5)
        except RayStateApiException:
            return "NOBODY ANSWERS"
        return found.state if found else "UNKNOWN"


print("SEEN AS", ray.get(Controller.remote().seen_as.remote()))
embedded.release()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where Ray keeps its sessions; short, for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rayworks-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def dashboard() -> Iterator[None]:
    """A dashboard, where Ray's are by default, that knows no actor."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            nothing = {"result": [], "total": 0, "num_after_truncation": 0, "num_filtered": 0}
            self.wfile.write(json.dumps({"result": True, "msg": "", "data": {"result": nothing}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # then the dashboard of a Ray is there already
            server = stack.enter_context(HTTPServer(("127.0.0.1", 8265), Answers))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ran.stdout + ran.stderr[-3000:]


def test_workers_ask_their_own_ray_although_another_was_started_on_the_machine(folder: Path):
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(
        "127.0.0.1:9"
    )  # as `ray start` writes it, and leaves it when killed
    assert "SEEN AS ALIVE" in (said := run(folder, "with a dashboard")), said


def test_workers_of_a_ray_without_a_dashboard_do_not_ask_that_of_another_whether_their_actors_live(
    folder: Path, dashboard: None
):
    assert "SEEN AS NOBODY ANSWERS" in (said := run(folder)), said
