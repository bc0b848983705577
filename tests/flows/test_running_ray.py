"""A flow on an existing Ray cluster: its tasks run there, and the cluster goes on running."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rayworks.cluster.kubernetes.driver_node import DriverNode
from rayworks.free_port import free_port
from tests.waiting import eventually

PROGRAM = """
import os, sys
from prefect import flow, task
from rayworks import RayTaskRunner, RayworksError

@task
def location() -> tuple[str, int, str]:
    from rayworks.settings import Settings
    return Settings().storage_uri, os.getppid(), os.environ.get("RAY_ADDRESS", "-")

@flow(task_runner=RayTaskRunner())
def locate():
    return location.submit().result()

try:
    print("LOCATION", *locate())
except RayworksError as error:
    print("ERROR", error)
    sys.exit(1)
"""


class Head(NamedTuple):
    port: int
    client_port: int
    raylet: int


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray head, ended by its process group: `ray stop` would end every Ray of the machine."""
    port, client_port, dashboard_port = (free_port() for _ in range(3))
    # A short path, for Ray's sockets. Not in /tmp/ray, where every ray.init would find this head.
    folder = tempfile.mkdtemp(prefix="rayworks-")
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--temp-dir={folder}"),
        *("--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client_port}"),
        *(f"--dashboard-port={dashboard_port}", "--include-dashboard=false", "--disable-usage-stats"),
        "--object-store-memory=100000000",
    ]
    log = (tmp_path_factory.mktemp("head") / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for listening in (port, client_port):
            eventually(
                lambda listening=listening: process.poll() is not None or is_open(listening),
                60,
                "the head never listened",
            )
        assert process.poll() is None, log.seek(0) or log.read()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        raylet = next(int(child) for child in children if "raylet/raylet" in Path(f"/proc/{child}/cmdline").read_text())
        yield Head(port, client_port, raylet)
    finally:
        process.send_signal(signal.SIGTERM)  # --block ends what it started
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def run_program(prefect_api: str, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    environment = {
        **os.environ,
        "RAYWORKS_RAY_ADDRESS": address,
        "RAYWORKS_STORAGE_URI": "relative/storage",
        "PREFECT_API_URL": prefect_api,
    }
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("kind", ["host:port", "ray://"])
def test_tasks_run_on_the_existing_cluster_with_the_storage_of_the_driver(
    prefect_api: str, head: Head, tmp_path: Path, kind: str
):
    address = f"127.0.0.1:{head.port}" if kind == "host:port" else f"ray://127.0.0.1:{head.client_port}"
    done = run_program(prefect_api, tmp_path, address)
    location = next((line for line in done.stdout.splitlines() if line.startswith("LOCATION")), "")
    # The cluster that Ray Train queries for the state of its controller; over ray:// its address is not known.
    ray_address = address if kind == "host:port" else "-"
    assert location == f"LOCATION {tmp_path}/relative/storage {head.raylet} {ray_address}", done.stdout + done.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_ray_fails_with_one_sentence(prefect_api: str, tmp_path: Path, scheme: str):
    address = f"{scheme}127.0.0.1:{free_port()}"
    done = run_program(prefect_api, tmp_path, address)
    assert done.returncode == 1, done.stdout + done.stderr
    message = next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert message.startswith("ERROR Ray cannot be reached")
    assert address in message


def test_a_driver_joins_the_cluster_as_a_node_that_runs_until_it_is_ended(head: Head):
    node = DriverNode()
    node.join(f"127.0.0.1:{head.port}")
    assert node.process.is_running, node.process.output()
    node.end()
    assert not node.process.is_running
