"""A flow on an existing Ray cluster: its tasks run there, and the cluster goes on running."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rayworks.cluster.kubernetes.driver_node import DriverNode
from rayworks.free_port import free_port
from tests.ray_head import ray_head
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
def head() -> Iterator[Head]:
    client_port = free_port()
    ports = (f"--ray-client-server-port={client_port}", f"--dashboard-port={free_port()}")
    options = ("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", *ports)
    with ray_head(*options, env=os.environ) as started:
        for listening in (started.port, client_port):
            eventually(lambda listening=listening: is_open(listening), 60, "the head never listened")
        raylet = next(pid for pid, command in started.processes.items() if "raylet/raylet" in command)
        yield Head(started.port, client_port, raylet)


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
