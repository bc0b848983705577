"""How ``rayworks/cluster/_private.py`` starts a node of Ray, and what the node keeps."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayworks.cluster import _private, ray_init
from rayworks.cluster.embedded import EmbeddedRay
from rayworks.errors import ClusterError

RAY = Path(next(iter(importlib.util.find_spec("ray").submodule_search_locations)))


@pytest.mark.parametrize(
    ("exit_code", "seconds", "answers", "outcome"),
    [
        (None, 60, [False, False, True], "the node"),
        (None, 0.01, [False, False], f"{_private.NODE_TOO_SLOW}: it has not started after 0 s"),
        (1, 60, [False], "the raylet ended as it started, see raylet.err"),
    ],
    ids=["starts", "late", "ended"],
)
def test_a_node_has_time_to_start_as_long_as_its_raylet_runs(
    monkeypatch: pytest.MonkeyPatch, exit_code: int | None, seconds: float, answers: list[bool], outcome: str
):
    from ray._private import services

    def get_node(gcs_address: str, node_id: str) -> str:
        return "the node"

    raylet = SimpleNamespace(process=SimpleNamespace(poll=lambda: exit_code))
    monkeypatch.setattr(services, "start_raylet", lambda raylet_stderr_filepath: raylet)
    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(_private, "_is_alive", lambda gcs_address, node_id: lambda: answers.pop(0))
    with _private.time_to_start(seconds):
        assert services.start_raylet(raylet_stderr_filepath="raylet.err") is raylet
        if outcome == "the node":
            assert services.get_node("127.0.0.1:6379", "aa") == outcome
        else:
            with pytest.raises((TimeoutError, ChildProcessError), match=outcome):
                services.get_node("127.0.0.1:6379", "aa")
    assert not answers
    assert services.get_node is get_node


def test_a_raylet_that_waited_in_vain_for_its_processes_was_too_slow(monkeypatch: pytest.MonkeyPatch):
    from ray._private import services

    raylet = SimpleNamespace(process=SimpleNamespace(poll=lambda: 1))
    monkeypatch.setattr(services, "start_raylet", lambda raylet_stderr_filepath: raylet)
    monkeypatch.setattr(_private, "_is_alive", lambda gcs_address, node_id: lambda: False)
    monkeypatch.setattr(_private, "AGENT_SECONDS", 0)
    with _private.time_to_start(60):
        services.start_raylet(raylet_stderr_filepath="raylet.err")
        with pytest.raises(TimeoutError, match=_private.NODE_TOO_SLOW):
            services.get_node("127.0.0.1:6379", "aa")


def test_an_embedded_ray_that_was_too_slow_is_started_again(monkeypatch: pytest.MonkeyPatch):
    attempts: list[dict[str, str]] = []

    def connect(arguments: dict[str, Any], *, environment: dict[str, str]) -> None:
        attempts.append(environment)
        if len(attempts) == 1:
            raise TimeoutError(f"{_private.NODE_TOO_SLOW}: it has not started after 16 s")
        if len(attempts) == 3:
            raise ChildProcessError("the raylet ended as it started, see raylet.err")

    monkeypatch.setattr(ray_init, "connect", connect)
    EmbeddedRay().acquire({}, {})
    first, second = attempts
    assert first["RAY_GCS_SERVER_PORT"] != second["RAY_GCS_SERVER_PORT"]  # where the first one's GCS may still listen
    with pytest.raises(ClusterError, match=r"could not be started on this machine \(the raylet ended as it started"):
        EmbeddedRay().acquire({}, {})
    assert len(attempts) == 3


def test_ray_passes_on_where_a_raylet_writes_its_errors():
    assert "raylet_stderr_filepath=raylet_stderr_filepath," in (RAY / "_private/node.py").read_text()


def test_the_gcs_tells_whether_a_node_is_alive(ray_session):
    import ray

    context = ray.get_runtime_context()
    assert _private._is_alive(context.gcs_address, context.get_node_id())()
    assert not _private._is_alive(context.gcs_address, "ab" * 28)()


def test_a_node_without_cpus_keeps_workers_for_its_next_tasks():
    code = """
    import os
    import ray

    ray.init("local", num_cpus=0, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=0)
    class Meeting:  # of three workers, so that none of them gets two tasks
        def __init__(self):
            self.guests = 0
        def join(self):
            self.guests += 1
        def is_complete(self):
            return self.guests == 3

    @ray.remote(num_cpus=0)
    def worker(meeting=None):
        if meeting:
            ray.get(meeting.join.remote())
            while not ray.get(meeting.is_complete.remote()):
                pass
        return os.getpid()

    def runs(pid):
        return os.path.exists(f"/proc/{pid}")

    meeting = Meeting.remote()
    workers = ray.get([worker.remote(meeting) for _ in range(3)])
    while all(map(runs, workers)):  # Ray ends the one that is too many
        pass
    print(ray.get(worker.remote()) in filter(runs, workers))
    """
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **_private.IDLE_WORKERS}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
