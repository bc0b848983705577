"""A flow on a Ray that runs already: it finds its way there, leaves nothing, and the Ray stays."""

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

from rayworks.free_port import free_port
from tests.waiting import eventually

PROGRAM = """
import os, sys
from prefect import flow, task
from rayworks import RayTaskRunner, RayworksError

@task
def where() -> tuple[str, int, str]:
    from rayworks.settings import Settings
    return Settings().storage_uri, os.getppid(), os.environ.get("RAY_ADDRESS", "-")

@flow(task_runner=RayTaskRunner())
def ask():
    return where.submit().result()

try:
    print("ANSWER", *ask())
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
    """A Ray head of our own: ended by its process group, since `ray stop` would end every Ray of the machine."""
    port, client_port, dashboard_port = (free_port() for _ in range(3))
    command = [
        *(
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--node-ip-address=127.0.0.1",
        ),
        *(f"--port={port}", f"--ray-client-server-port={client_port}", f"--dashboard-port={dashboard_port}"),
        *("--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"),
    ]
    folder = tempfile.mkdtemp(
        prefix="rayworks-"
    )  # short, for Ray's sockets; in /tmp/ray, every ray.init would find this head
    command.append(f"--temp-dir={folder}")
    log = (tmp_path_factory.mktemp("head") / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for listening in (port, client_port):
            eventually(
                lambda listening=listening: process.poll() is not None or is_open(listening),
                60,
                "the head never answered",
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


def ask(prefect_api: str, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    own = {"RAYWORKS_RAY_ADDRESS": address, "RAYWORKS_STORAGE_URI": "relative/storage", "PREFECT_API_URL": prefect_api}
    command = [sys.executable, "program.py"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize("kind", ["host:port", "ray://"])
def test_the_tasks_run_there_with_the_storage_of_the_driver(prefect_api: str, head: Head, tmp_path: Path, kind: str):
    address = f"127.0.0.1:{head.port}" if kind == "host:port" else f"ray://127.0.0.1:{head.client_port}"
    done = ask(prefect_api, tmp_path, address)
    answer = next((line for line in done.stdout.splitlines() if line.startswith("ANSWER")), "")
    theirs = (
        address if kind == "host:port" else "-"
    )  # which Ray Train asks whether it lives; over ray:// nobody here knows
    assert answer == f"ANSWER {tmp_path}/relative/storage {head.raylet} {theirs}", done.stdout + done.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_ray_is_ends_in_one_sentence(prefect_api: str, tmp_path: Path, scheme: str):
    address = f"{scheme}127.0.0.1:{free_port()}"
    done = ask(prefect_api, tmp_path, address)
    assert done.returncode == 1, done.stdout + done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert said.startswith("ERROR Ray cannot be reached")
    assert address in said
