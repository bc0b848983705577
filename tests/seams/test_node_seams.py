"""How ``rayworks/cluster/_private.py`` starts a node of Ray, and what the node keeps."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from rayworks.cluster import _private


@pytest.mark.parametrize(
    ("exit_code", "seconds", "answers", "outcome"),
    [
        (None, 60, [False, False, True], "the node"),
        (1, 60, [False], "its raylet has ended"),
        (None, 0.01, [False, False], "it has not started after 0 s"),
    ],
    ids=["starts", "ended", "late"],
)
def test_a_node_has_time_to_start_as_long_as_its_process_runs(
    monkeypatch: pytest.MonkeyPatch, exit_code: int | None, seconds: float, answers: list[bool], outcome: str
):
    from ray._private import services

    def get_node(gcs_address: str, node_id: str) -> str:
        return "the node"

    raylet = SimpleNamespace(process=SimpleNamespace(poll=lambda: exit_code))
    monkeypatch.setattr(services, "start_raylet", lambda: raylet)
    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(_private, "_is_alive", lambda gcs_address, node_id: lambda: answers.pop(0))
    with _private.time_to_start(seconds):
        assert services.start_raylet() is raylet
        if outcome == "the node":
            assert services.get_node("127.0.0.1:6379", "aa") == outcome
        else:
            with pytest.raises(TimeoutError, match=f"{_private.NODE_TOO_SLOW}: {outcome}"):
                services.get_node("127.0.0.1:6379", "aa")
    assert not answers
    assert services.get_node is get_node


def test_the_gcs_tells_whether_a_node_is_alive(ray_session):
    import ray

    context = ray.get_runtime_context()
    assert _private._is_alive(context.gcs_address, context.get_node_id())()
    assert not _private._is_alive(context.gcs_address, "ab" * 28)()


def test_a_node_without_cpus_keeps_a_worker_for_its_next_task():
    code = """
    import os
    import ray

    ray.init(num_cpus=0, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=0)
    class Meeting:  # of two workers, so that none of them gets both tasks
        def __init__(self):
            self.guests = 0
        def join(self):
            self.guests += 1
        def is_complete(self):
            return self.guests == 2

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
    workers = ray.get([worker.remote(meeting) for _ in range(2)])
    while all(map(runs, workers)):  # Ray ends the one that is too many
        pass
    [kept] = filter(runs, workers)
    print(ray.get(worker.remote()) == kept)
    """
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **_private.idle_workers(1)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
