"""A flow on Ray gets results, errors and futures as it does with Prefect's own task runners."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect import allow_failure, flow, tags, task, unmapped
from prefect.context import FlowRunContext, TagsContext
from prefect.futures import wait
from prefect.utilities.annotations import quote
from prefect_ray.context import remote_options

from rayworks import RayTaskRunner, StorageError, TransferError, ray_running, resources
from tests.flows.flow_runs import add, fail, nap, on_ray, run, task_name, task_runs, total_of
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


def test_results_and_futures_within_collections_reach_the_next_task(client):
    def body() -> int:
        first = add.submit(1)
        total = total_of.submit({"all": [first, add.submit(first, 10)]})
        return add.submit(total, 5).result()

    state = run(body)
    assert state.result() == 19
    assert {run["state_name"] for run in task_runs(client, state, 4)} == {"Completed"}


def test_map_takes_each_value_and_repeats_what_is_unmapped():
    def body() -> list[int]:
        return add.map([1, 2, 3], unmapped(10)).result()

    assert run(body).result() == [11, 12, 13]


def test_the_error_of_a_task_is_raised_unchanged():
    def body() -> tuple[str, list[str]]:
        with pytest.raises(ValueError, match="an error of the task"):
            fail.submit().result()
        error = fail.submit().result(raise_on_failure=False)
        return error.args[0], error.__notes__

    message, (trace,) = run(body).result()
    assert message == "an error of the task"
    assert trace.startswith("In task fail\nTraceback")
    assert "in fail\n" in trace, "pickle drops the traceback"


@task
def process_and_threads() -> tuple[int, set[int]]:
    import sklearn.ensemble  # noqa: F401 - brings OpenMP and BLAS
    import threadpoolctl

    return os.getpid(), {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_libraries_have_a_thread_for_each_cpu_of_a_task_in_a_process_whose_tasks_before_had_others():
    def body() -> bool:
        before: dict[int, set[int]] = {}
        for cpus in [1, 2] * 20:
            with remote_options(num_cpus=cpus):
                process, threads = process_and_threads.submit().result()
            assert threads == {cpus}
            if before.setdefault(process, threads) != threads:
                return True
        return False

    assert run(body).result(), "no process ran tasks of one CPU and of two"


class HttpError(Exception):
    """As many libraries write one: pickle calls it with the message only."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")


@task
def described(outcome: Any) -> str:
    return str(outcome)


@task
def request(number: int) -> None:
    raise HttpError(404, "not found")


def test_an_error_that_cannot_be_unpickled_arrives_with_its_type_and_message(client):
    def body() -> str:
        future = request.submit(1)
        assert described.submit(allow_failure(future)).result().startswith("HttpError: 404 not found (")
        assert "HttpError: 404 not found" in str(future.result(raise_on_failure=False))
        future.result()
        return "not reached"

    state = run(body)
    with pytest.raises(TransferError, match="HttpError: 404 not found"):
        state.result()
    shown = next(run for run in task_runs(client, state, 2) if task_name(run) == "request")
    assert shown["state"]["message"] == "Task run encountered an exception HttpError: 404 not found"


def test_async_tasks_run_in_async_flows():
    @task
    async def slow_add(first: int, second: int) -> int:
        await asyncio.sleep(0.01)
        return first + second

    async def body() -> int:
        return sum(future.result() for future in [slow_add.submit(1, 2), slow_add.submit(3, 4)])

    assert asyncio.run(on_ray(body)()) == 10


def test_a_timeout_of_a_wait_leaves_the_task_running():
    def body() -> tuple[int, int]:
        future = nap.submit(10)
        with pytest.raises(TimeoutError, match=r"did not complete within 0\.2 seconds"):
            future.result(timeout=0.2)
        done, not_done = wait([future, add.submit(1)], timeout=6)  # another worker starts
        assert len(done) + len(not_done) == 2
        future.result()
        return len(done), len(not_done)

    assert run(body).result() == (1, 1)


def test_a_callback_of_a_future_is_called_with_its_result():
    def body() -> list[Any]:
        results: list[Any] = []
        future = add.submit(1)
        future.add_done_callback(lambda done: results.append(done.result()))
        future.wait()
        eventually(lambda: results)
        return results

    assert run(body).result() == [2]


def test_remote_options_around_a_submit_override_the_resources_of_the_task():
    @task
    @resources(num_cpus=0.5)
    def assigned_cpus() -> float:
        import ray

        return ray.get_runtime_context().get_assigned_resources()["CPU"]

    def body() -> tuple[float, float]:
        with remote_options(num_cpus=1.5):
            with_options = assigned_cpus.submit()
        return assigned_cpus.submit().result(), with_options.result()

    assert run(body).result() == (0.5, 1.5)


def test_a_process_serves_as_many_task_runs_as_the_task_allows():
    @task
    @resources(max_calls=1)
    def process() -> int:
        return os.getpid()

    def body() -> list[int]:
        return [process.submit().result() for _ in range(3)]

    assert len(set(run(body).result())) == 3


def test_tags_around_a_submit_are_added_to_the_task_run(client):
    @task(tags=["of-task"])
    def tagged() -> list[str]:
        return sorted(TagsContext.get().current_tags)

    def body() -> list[str]:
        with tags("around"):
            return tagged.submit().result()

    state = run(body)
    assert state.result() == ["around"]
    assert sorted(task_runs(client, state, 1)[0]["tags"]) == ["around", "of-task"]


def test_a_task_knows_its_flow_run():
    @task
    def flow_run_id() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    state = run(lambda: flow_run_id.submit().result())
    assert state.result() == str(state.state_details.flow_run_id)


def test_a_task_may_submit_tasks_and_a_flow_may_call_flows(client):
    @task
    @resources(num_cpus=0)
    def parent() -> int:
        return sum(add.map([1, 2], unmapped(1)).result())

    def body() -> int:
        return parent.submit().result() + on_ray(subflow)()

    def subflow() -> int:
        return add.submit(100).result()

    state = run(body)
    assert state.result() == 106
    assert sorted(task_name(run) for run in task_runs(client, state, 4)) == ["add", "add", "parent", "tested"]


def test_tasks_that_wait_for_a_future_keep_no_cpu_from_the_task_they_wait_for():
    def body() -> int:
        held = nap.submit(1)
        awaited = add.submit(held)
        _, not_done = wait(nap.map([0] * 5, wait_for=[awaited]), timeout=60)
        return len(not_done)

    assert run(body).result() == 0


def test_a_task_that_waits_for_a_task_gives_it_its_cpu():
    @task
    @resources(num_cpus=2)
    def parent() -> int:
        return add.submit(add.submit(1), 2).result(timeout=60)

    assert run(lambda: parent.submit().result()).result() == 4


@pytest.mark.parametrize("num_cpus", [0, 1])
def test_the_time_limit_of_a_task_that_waits_for_tasks_holds(num_cpus: int):
    @task(timeout_seconds=1)
    @resources(num_cpus=num_cpus)
    def parent() -> None:
        nap.submit(600).wait()

    def body() -> float:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            parent.submit().result()
        return time.monotonic() - start

    assert run(body).result() < 120


def test_annotations_of_parameters_reach_the_engine_as_they_were_given():
    @task
    def types(upstream: Any, quoted: Any) -> list[str]:
        return [type(value).__name__ for value in (upstream, *upstream[0], quoted)]

    def body() -> list[str]:
        failed = fail.submit()
        return types.submit(allow_failure([[failed], failed]), quote({})).result()

    assert run(body).result() == ["list", "ValueError", "dict"]


def test_a_block_of_ray_running_within_another_has_the_same_session():
    with ray_running() as outer, ray_running() as inner:
        assert inner is outer


def test_a_flow_in_another_thread_uses_the_session_of_its_process():
    @flow(task_runner=RayTaskRunner())
    def session() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        return [context.task_runner._session]

    with ray_running() as of_process, ThreadPoolExecutor() as threads:
        assert threads.submit(session).result(60) == [of_process]


TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"


@pytest.mark.parametrize(
    ("environment", "profile", "seconds"), [({}, "", 120), ({TIMEOUT: "50"}, "", 50), ({}, f'{TIMEOUT} = "60"', 60)]
)
def test_a_runner_gives_the_temporary_server_of_prefect_time_to_start_unless_it_is_configured(
    environment: dict[str, str], profile: str, seconds: int, tmp_path: Path
):
    (tmp_path / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\n{profile}\n')
    code = f"""
from rayworks import RayTaskRunner
from prefect.settings import get_current_settings
RayTaskRunner()
assert get_current_settings().server.ephemeral.startup_timeout_seconds == {seconds}
"""
    inherited = {name: value for name, value in os.environ.items() if name != TIMEOUT}
    home = {"PREFECT_HOME": str(tmp_path), "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml")}
    subprocess.run([sys.executable, "-c", code], env=inherited | home | environment, check=True)


def test_only_a_task_that_needs_the_storage_fails_where_it_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    @task
    @resources(shared_storage=True)
    def store() -> None: ...

    def body() -> int:
        with pytest.raises(StorageError, match="a-file/storage"):
            store.submit()
        return add.submit(1, 2).result()

    (tmp_path / "a-file").touch()
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", str(tmp_path / "a-file" / "storage"))
    assert run(body).result() == 3


def test_a_task_that_closes_over_a_lock_fails_with_the_name_of_the_variable():
    lock = threading.Lock()

    @task
    def guarded() -> None:
        with lock:
            pass

    with pytest.raises(
        TransferError, match=r"^The function of task 'guarded' cannot be sent to a worker: its variable lock \("
    ):
        run(lambda: guarded.submit()).result()


def test_a_flow_that_closes_over_a_lock_fails_with_the_name_of_the_variable():
    lock = threading.Lock()

    def body() -> None:
        with lock:
            add.submit(1)

    with pytest.raises(
        TransferError, match=r"^The function of flow 'tested', which is sent with .* 'add', .*: its variable lock \("
    ):
        run(body).result()


def test_a_parameter_that_cannot_be_sent_is_named():
    def body() -> None:
        add.submit([threading.Lock()], 2)

    with pytest.raises(
        TransferError, match=r"^Parameter 'first' of task 'add' cannot be sent to a worker \(TypeError: "
    ):
        run(body).result()
