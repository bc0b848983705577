"""The command that waits for a Ray head in the pods of a RayCluster. Starts no Ray."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rayworks.cluster.kubernetes import ray_command
from rayworks.free_port import free_port

STATUSES = Path(__file__).parent / "statuses"
LOADED = """
import runpy, sys
try:
    runpy.run_module("rayworks.cluster.kubernetes.ray_command", run_name="__main__")
finally:
    print("ray" in sys.modules)
"""


def health_check(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOADED, "health-check", "--address", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_head_that_listens_is_healthy_and_ray_is_not_imported_to_learn_it():
    with socket.create_server(("127.0.0.1", 0)) as head:
        done = health_check(f"127.0.0.1:{head.getsockname()[1]}")
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_a_health_check_waits_for_a_head_that_starts():
    address = ("127.0.0.1", free_port())
    heads: list[socket.socket] = []
    start = threading.Timer(0.5, lambda: heads.append(socket.create_server(address)))
    start.start()
    assert ray_command.listens(*address, seconds=20)
    start.join()
    heads[0].close()


def test_a_head_that_does_not_listen_in_time_and_one_without_a_name_are_not_healthy(
    monkeypatch: pytest.MonkeyPatch,
):
    port = free_port()
    address = f"127.0.0.1:{port}"
    assert not ray_command.listens("127.0.0.1", port, seconds=0.3)
    assert not ray_command.listens("head.invalid", 6379, seconds=0)
    monkeypatch.setattr(sys, "argv", ["ray", "health-check", "--address", address])
    monkeypatch.setattr(ray_command, "HEALTH_SECONDS", 0)
    with pytest.raises(SystemExit, match=f"The Ray head {address} does not listen"):
        ray_command.main()


def test_the_init_container_of_kuberay_only_waits():
    pods = json.loads((STATUSES / "well.json").read_text())["pods"]
    [script] = [each["args"][0] for pod in pods for each in pod["spec"].get("initContainers", [])]
    commands = re.findall(r"\bray (health-check .*?)(?: >|;)", script)
    assert len(commands) == 2
    assert all(ray_command.head_to_wait_for(command.split()) for command in commands)


def test_a_node_that_waits_to_be_told_ends_with_whoever_would_tell_it():
    command = [sys.executable, "-c", LOADED, ray_command.START_WHEN_TOLD]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr  # Ray is imported by then


@pytest.mark.parametrize(
    "arguments",
    [
        ["health-check"],
        ["health-check", "--address", "auto"],
        ["health-check", "--address", "10.0.0.1:6379", "--component", "ray_client_server"],
        ["start", "--address", "10.0.0.1:6379"],
        [],
    ],
    ids=["default", "auto", "component", "start", "none"],
)
def test_what_does_more_than_wait_is_left_to_ray(arguments: Sequence[str]):
    assert ray_command.head_to_wait_for(arguments) is None
