"""What is said of task runs that stand still. No Ray."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rayworks import call_stack
from rayworks.runner import stalls
from rayworks.runner.session import RaySession
from tests.waiting import eventually

NODES = [{"CPU": 2.0, "memory": 4.0 * 1024**3}, {"CPU": 4.0}]


def test_task_runs_that_wait_are_counted():
    assert stalls.waiting_text("train", 1, 61.2) == "Ray has not started a task run of train for 61 s"
    assert stalls.waiting_text("train", 3, 61.2) == "Ray has not started 3 task runs of train for 61 s"


def test_a_request_that_no_node_can_meet_is_named_as_such():
    text = stalls.reason_text({"CPU": 8.0}, NODES, {"CPU": 6.0}, [])
    assert text == (
        "It requests 8 CPU; there is 6 CPU (6 CPU free). "
        "No node has as much: request less by @resources, or add nodes that have it"
    )


def test_where_ray_may_add_nodes_the_task_run_waits_for_one():
    text = stalls.reason_text({"GPU": 1.0}, NODES, {"CPU": 6.0}, ["other-0"], stalls.Growth(may_come=True))
    assert text.endswith("there is 0 GPU (0 GPU free). No node has as much yet: it waits for another node")


def test_a_resource_that_is_held_by_others_names_those_that_run():
    running = [f"hold-{number}" for number in range(7)]
    text = stalls.reason_text({"CPU": 2.0, "memory": 1024.0**3}, NODES, {"CPU": 1.0}, running)
    assert text.startswith("It requests 2 CPU, 1 GiB of memory; ")
    assert "there is 6 CPU (1 CPU free), 4 GiB of memory (0 GiB of memory free)" in text
    assert text.endswith("It may wait for hold-0, hold-1, hold-2, hold-3, hold-4 and 2 more, which run")


def test_what_is_known_of_the_next_node_is_said_in_place_of_a_guess():
    growth = stalls.Growth(may_come=True, why_none_comes="Worker group gpu is at its maximum of 2")
    text = stalls.reason_text({"GPU": 1.0}, NODES, {}, [], growth)
    assert text.endswith("there is 0 GPU (0 GPU free). Worker group gpu is at its maximum of 2")
    text = stalls.reason_text({"CPU": 4.0}, NODES, {}, ["hold-0"], growth)
    assert text.endswith("Worker group gpu is at its maximum of 2. It may wait for hold-0, which run")


def test_what_is_held_by_nobody_of_the_flow_is_held_by_others():
    assert "Others on this Ray cluster may hold the rest" in stalls.reason_text({"CPU": 2.0}, NODES, {}, [])


def test_a_task_run_without_a_request_waits_for_a_process():
    assert stalls.reason_text({}, NODES, {}, []).startswith("It requests no resources")


def test_the_calls_of_a_thread_end_where_it_is():
    calls = call_stack.of_thread(threading.get_ident())
    assert "calls = call_stack.of_thread(threading.get_ident())" in calls
    assert calls.count("File ") == call_stack.FRAMES
    assert call_stack.of_thread(-1) == ""


def test_what_a_task_run_waits_for_is_looked_at_where_it_is_and_once(monkeypatch: pytest.MonkeyPatch):
    def wait(references: list[str], *, fetch_local: bool, **_: Any) -> tuple[list[str], list[str]]:
        assert not fetch_local, "the driver's node would fetch all results"
        assert len(references) == len(set(references)), "Ray refuses a repeated reference"
        return [one for one in references if one == "there"], [one for one in references if one != "there"]

    monkeypatch.setattr("ray.wait", wait)
    upstream = [(), ("there", "there"), ("there", "to come")]
    task_runs: list[Any] = [SimpleNamespace(upstream=references) for references in upstream]
    assert stalls.without_upstream(task_runs) == task_runs[:2]


def test_an_error_does_not_end_the_watch_for_waiting_task_runs():
    looks: list[None] = []

    def fail() -> Any:
        looks.append(None)
        raise ValueError

    watch = stalls.WaitingTaskWatch(fail, 0.04, RaySession())
    watch.start()
    eventually(lambda: len(looks) > 1)
    watch.stop()
