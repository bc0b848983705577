"""A run that stands still says why, and says when it goes on. On embedded Ray with two CPUs."""

import ctypes
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from prefect import get_run_logger, task
from prefect.client.orchestration import SyncPrefectClient

from rayworks import resources
from tests.flows.flow_runs import log_line, run
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


@pytest.fixture(autouse=True)
def stall_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYWORKS_STALL_SECONDS", "2")


@task
def hold(folder: str) -> None:
    """Hold a CPU until there is a file, and show that it works."""
    Path(folder, "begun").touch()
    while not Path(folder, "enough").exists():
        get_run_logger().info("holding")
        time.sleep(0.2)


@task
@resources(num_cpus=2)
def want_two() -> str:
    return "had two"


def test_a_task_that_others_keep_waiting_is_named_with_who_holds_what_and_said_to_begin(
    client: SyncPrefectClient, tmp_path: Path
):
    def body() -> None:
        held = hold.submit(str(tmp_path))
        eventually((tmp_path / "begun").exists)
        waits = want_two.submit()
        time.sleep(4)
        (tmp_path / "enough").touch()
        assert waits.result() == "had two"
        held.wait()

    state = run(body)
    assert state.is_completed(), state.message
    line = log_line(client, state, "Ray has not started a task run of want_two")
    # Ray reports what is free a moment later.
    assert "It requests 2 CPU; there is 2 CPU (" in line["message"]
    assert "CPU free). It may wait for hold-" in line["message"]
    assert line["level"] == 30


def test_a_request_that_no_node_can_meet_is_named(client: SyncPrefectClient):
    @task
    @resources(num_cpus=50)
    def want_fifty() -> None: ...

    def body() -> None:
        waits = want_fifty.submit()
        time.sleep(4)
        del waits  # the end of the flow cancels it

    line = log_line(client, run(body), "Ray has not started a task run of want_fifty")
    assert "It requests 50 CPU; there is 2 CPU (" in line["message"]
    assert "CPU free). No node has as much" in line["message"]


@task
def sleep_without_a_word(seconds: float) -> None:
    time.sleep(seconds)
    get_run_logger().info("a word")
    time.sleep(2.5)


def test_a_task_that_shows_nothing_is_named_in_its_log_with_its_stack_and_said_to_go_on(client: SyncPrefectClient):
    state = run(lambda: sleep_without_a_word.submit(4).result())
    line = log_line(client, state, "It has shown nothing for 2 s")
    assert "in sleep_without_a_word\n    time.sleep(seconds)" in line["message"]
    assert line["task_run_id"]
    assert log_line(client, state, "It goes on, after 4 s")["task_run_id"] == line["task_run_id"]


@task
def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=4)


def test_a_deadlock_is_seen_in_the_stack(client: SyncPrefectClient):
    state = run(lambda: deadlock.submit().result())
    assert "lock.acquire(timeout=4)" in log_line(client, state, "It has shown nothing for 2 s")["message"]


@task
def hold_the_gil() -> None:
    ctypes.PyDLL(None).sleep(5)  # unlike CDLL, it keeps the GIL


def test_a_call_in_c_that_holds_the_gil_is_named_while_it_does(client: SyncPrefectClient):
    state = run(lambda: hold_the_gil.submit().result())
    line = log_line(client, state, "A call in C has not returned to Python")
    assert "hold_the_gil pid=" in line["message"]
    innermost = log_line(client, state, "in hold_the_gil")
    assert datetime.fromisoformat(innermost["timestamp"]) < state.timestamp


def test_tasks_that_wait_for_their_turn_are_not_named(client: SyncPrefectClient):
    @task
    def turn(number: int) -> None:
        time.sleep(0.5)

    state = run(lambda: turn.map(range(14)).wait())
    lines = client.request(
        "POST", "/logs/filter", json={"logs": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    ).json()
    assert [line["message"] for line in lines if "has not started" in line["message"]] == []
