"""A Prefect server on SQLite keeps responding while statements fail."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from rayworks.cluster import preflight
from rayworks.free_port import free_port
from rayworks.prefect_api import _private
from tests.waiting import eventually

LASTING = (sys.executable, "-m", "rayworks.prefect_api.lasting_server", "start", "--port")


@pytest.fixture(params=["embedded", "lasting"])
def api_url(request: pytest.FixtureRequest, prefect_home: Path) -> Iterator[str]:
    """Of a server as a flow starts it, and as an installation does."""
    port = free_port()
    command = _private.server_command(port) if request.param == "embedded" else [*LASTING, str(port)]
    environment = {**os.environ, "PREFECT_HOME": str(prefect_home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    eventually(lambda: not preflight.http_problem(f"{url}/health"), 120)
    yield url
    process.kill()
    process.wait()


def test_requests_are_answered_while_others_violate_a_constraint(api_url: str):
    def ask(worker: int) -> list[int]:
        """Create the same work pool again and again, and a flow each time, which needs the lock of the database."""
        with httpx.Client(base_url=api_url, timeout=20) as client:
            answers: list[int] = []
            for number in range(25):
                pool = client.post("/work_pools/", json={"name": "same", "type": "process"})
                flow = client.post("/flows/", json={"name": f"flow-{worker}-{number}"})
                answers += [pool.status_code, flow.status_code]
            return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [code for codes in pool.map(ask, range(8)) for code in codes]
    assert sorted(answers) == [201] * 201 + [409] * 199
