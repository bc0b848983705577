"""The Prefect server shows the states, retries and dependencies of task runs on Ray."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from prefect import allow_failure, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import CrashedRun, UnfinishedRun
from prefect.futures import wait

from rayworks import TransferError, resources
from tests.flows.flow_runs import add, end_process, fail, nap, run, shown_task_runs, task_name, task_runs, total_of
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


@task
def describe(value: Any) -> str:
    return repr(value)


def test_the_server_shows_what_a_task_run_waited_for(client: SyncPrefectClient):
    def body() -> None:
        first = add.submit(1)
        add.submit(first, wait_for=[nap.submit(0)]).wait()

    runs = task_runs(client, run(body), 3)
    last = next(run for run in runs if run["task_inputs"].get("first"))
    names = {run["id"]: task_name(run) for run in runs}
    assert [names[origin["id"]] for origin in last["task_inputs"]["first"]] == ["add"]
    assert [names[origin["id"]] for origin in last["task_inputs"]["wait_for"]] == ["nap"]


def test_the_server_shows_which_task_run_a_parameter_came_from(client: SyncPrefectClient):
    @task
    def numbers() -> dict[str, list[int]]:
        return {"all": [1, 2]}

    def body() -> int:
        return total_of.submit(numbers.submit().result()).result()

    runs = task_runs(client, run(body), 2)
    ids = {task_name(run): run["id"] for run in runs}
    last = next(run for run in runs if run["id"] == ids["total_of"])
    assert [origin["id"] for origin in last["task_inputs"]["named"]] == [ids["numbers"]]


def test_a_failure_stops_only_what_depends_on_it(client: SyncPrefectClient):
    def body() -> None:
        failed = fail.submit()
        wait([add.submit(failed), describe.submit(allow_failure(failed))])

    state = run(body)

    def states() -> set[str]:
        runs = shown_task_runs(client, state.state_details.flow_run_id)
        return {f"{task_name(run)} {run['state_name']}" for run in runs}

    eventually(lambda: states() == {"fail Failed", "describe Completed", "add NotReady"})


def test_a_task_run_that_depends_on_a_crashed_one_is_not_ready(client: SyncPrefectClient):
    def body() -> list[str]:
        crashed = end_process.submit()
        depending = [add.submit(crashed), describe.submit(1, wait_for=[crashed])]
        depending.append(total_of.submit(depending[0]))
        for future in depending:
            with pytest.raises(UnfinishedRun):
                future.result()
            future.wait()
        return [future.state.name for future in depending]

    state = run(body)
    assert state.result() == 3 * ["NotReady"]
    shown = {task_name(run): run["state_name"] for run in shown_task_runs(client, state.state_details.flow_run_id)}
    assert shown == {"end_process": "Crashed"} | dict.fromkeys(["add", "describe", "total_of"], "NotReady")


@pytest.mark.parametrize("after", [0.0, 1.5], ids=["at once", "after a while"])
def test_a_task_run_whose_worker_is_killed_is_shown_as_crashed(client: SyncPrefectClient, after: float):
    @task(name="doomed")
    @resources(max_retries=0)
    def doomed() -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)

    state = run(lambda: doomed.submit().wait())
    (task_run,) = task_runs(client, state, 1)
    assert task_run["state_type"] == "CRASHED"
    assert task_run["name"].startswith("doomed-")


def test_a_task_run_that_is_cancelled_as_soon_as_it_starts_is_shown_as_crashed(
    client: SyncPrefectClient, tmp_path: Path
):
    started = tmp_path / "started"

    @task(name="cancelled")
    @resources(max_calls=1)  # its process ends with it, and can report nothing later
    def cancelled() -> None:
        started.touch()
        while True:
            time.sleep(0.01)

    def body() -> None:
        cancelled.submit()
        eventually(started.exists, every=0.01)

    (task_run,) = task_runs(client, run(body), 1)
    assert task_run["state_type"] == "CRASHED"


def test_a_task_is_retried_and_its_runs_are_counted(client: SyncPrefectClient, tmp_path: Path):
    @task(retries=2)
    def third_time_lucky() -> int:
        with (tmp_path / "tries").open("a") as tries:
            tries.write("x")
        assert (tmp_path / "tries").stat().st_size == 3
        return 3

    state = run(lambda: third_time_lucky.submit().result())
    assert state.result() == 3
    assert task_runs(client, state, 1)[0]["run_count"] == 3


def test_a_task_that_takes_too_long_times_out(client: SyncPrefectClient):
    @task(timeout_seconds=0.5)
    def endless() -> None:
        time.sleep(30)

    state = run(lambda: endless.submit().wait())
    assert task_runs(client, state, 1)[0]["state_name"] == "TimedOut"


def test_a_cached_result_is_reused_and_shown_as_cached(client: SyncPrefectClient, tmp_path: Path):
    @task(cache_policy=INPUTS, persist_result=True, result_storage_key=uuid4().hex)
    def expensive(number: int) -> int:
        with (tmp_path / "calls").open("a") as calls:
            calls.write("x")
        return number

    def body() -> int:
        first = expensive.submit(7)
        first.wait()
        return expensive.submit(7).result()

    state = run(body)
    assert state.result() == 7
    assert sorted(run["state_name"] for run in task_runs(client, state, 2)) == ["Cached", "Completed"]
    assert (tmp_path / "calls").read_text() == "x"


def test_no_state_of_many_short_tasks_is_lost(client: SyncPrefectClient):
    def body() -> int:
        return sum(add.map(range(100)).result())

    state = run(body)
    assert state.result() == 5050
    runs = task_runs(client, state, 100)
    assert {run["state_name"] for run in runs} == {"Completed"}
    assert all(run["start_time"] and run["end_time"] for run in runs)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_result_that_cannot_be_pickled_fails_its_task_run_with_the_variable_that_holds_it(
    client: SyncPrefectClient, tmp_path: Path, is_async: bool
):
    def connect() -> dict[str, Any]:
        with (tmp_path / "tries").open("a") as tries:
            tries.write("x")
        return {"rows": (number for number in range(3))}

    async def connect_async() -> dict[str, Any]:
        return connect()

    def body() -> str:
        connecting = task(connect_async if is_async else connect, name="connect", retries=1)
        with pytest.raises(TransferError) as error:
            connecting.submit().result()
        return str(error.value)

    state = run(body)
    message = "The result of task 'connect' cannot be sent to the driver"
    assert state.result().startswith(message)
    assert "cannot pickle 'generator' object" in state.result()
    (task_run,) = task_runs(client, state, 1)
    assert task_run["state_type"] == "FAILED"
    assert message in task_run["state"]["message"]
    assert (tmp_path / "tries").read_text() == "xx", "it is retried as after any error"


def test_a_task_that_is_called_within_a_task_may_return_what_cannot_be_pickled():
    @task
    def rows() -> dict[str, Any]:
        return {"rows": (number for number in range(3))}

    @task
    def total() -> int:
        return sum(rows()["rows"])

    assert run(lambda: total.submit().result()).result() == 3


def test_a_result_may_hold_large_arrays_and_references_of_ray():
    import ray

    @task
    def results() -> dict[str, Any]:
        return {"array": np.ones(2_000_000), "reference": ray.put("stored")}

    def body() -> tuple[float, str]:
        received = results.submit().result()
        return received["array"].sum(), ray.get(received["reference"])

    assert run(body).result() == (2_000_000, "stored")


def test_a_task_that_calls_sys_exit_is_shown_as_crashed_by_that_and_its_worker_goes_on(client: SyncPrefectClient):
    @task(name="leave")
    def leave() -> None:
        sys.exit(3)

    @task
    def process() -> int:
        return os.getpid()

    def body() -> None:
        with pytest.raises(CrashedRun, match=r"called sys\.exit\(3\)"):
            leave.submit().result()
        process.submit().wait()

    runs = {task_name(task_run): task_run for task_run in task_runs(client, run(body), 2)}
    assert runs["leave"]["state_type"] == "CRASHED"
    assert "system exit" in runs["leave"]["state"]["message"]
    assert runs["process"]["state_type"] == "COMPLETED"
