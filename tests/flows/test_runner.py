"""What Prefect promises of a task run holds when it runs on Ray."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import allow_failure, flow, get_run_logger, tags, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.assets import materialize
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext, TagsContext
from prefect.futures import wait
from prefect.states import State
from prefect_ray.context import remote_options

from rayworks import RayTaskRunner, TransferError, resources
from rayworks.prefect_api import server
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def on_ray(body: Callable[..., Any]) -> Any:
    return flow(task_runner=RayTaskRunner(), name="tested")(body)


def run(body: Callable[..., Any], *arguments: Any) -> State[Any]:
    """The last state of a flow with ``body``."""
    return on_ray(body)(*arguments, return_state=True)


def about(state: State[Any]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}


def task_runs(client: SyncPrefectClient, state: State[Any], number: int) -> list[dict[str, Any]]:
    """The task runs that the server shows of a flow run, once it shows that many that have ended."""

    def ended() -> list[dict[str, Any]]:
        runs = client.request("POST", "/task_runs/filter", json=about(state)).json()
        final = [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")]
        return final if len(final) == number else []

    return eventually(ended)


def logged(client: SyncPrefectClient, state: State[Any], words: str) -> dict[str, Any]:
    """The line of the flow run's log that has ``words``."""
    run_id = str(state.state_details.flow_run_id)
    question = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}

    def found() -> list[dict[str, Any]]:
        lines = client.request("POST", "/logs/filter", json=question).json()
        return [line for line in lines if words in line["message"]]

    return eventually(found)[0]


@task
def add(first: Any, second: Any = 1) -> Any:
    return first + second


@task
def total_of(named: dict[str, list[int]]) -> int:
    return sum(named["all"])


@task
def fail() -> None:
    raise ValueError("as it should")


@task
def told(what: Any) -> str:
    return repr(what)


@task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


def test_results_and_futures_within_collections_reach_the_next_task(client: SyncPrefectClient):
    def body() -> int:
        first = add.submit(1)
        total = total_of.submit({"all": [first, add.submit(first, 10)]})
        return add.submit(total, 5).result()

    state = run(body)
    assert state.result() == 19
    assert {one["state_name"] for one in task_runs(client, state, 4)} == {"Completed"}


def test_the_server_shows_what_a_task_run_waited_for(client: SyncPrefectClient):
    def body() -> None:
        first = add.submit(1)
        add.submit(first, wait_for=[nap.submit(0)]).wait()

    runs = task_runs(client, run(body), 3)
    last = next(one for one in runs if one["task_inputs"].get("first"))
    by_id = {one["id"]: one["name"].rpartition("-")[0] for one in runs}
    assert [by_id[origin["id"]] for origin in last["task_inputs"]["first"]] == ["add"]
    assert [by_id[origin["id"]] for origin in last["task_inputs"]["wait_for"]] == ["nap"]


def test_the_server_shows_whose_result_a_task_run_was_given(client: SyncPrefectClient):
    @task
    def numbers() -> dict[str, list[int]]:
        return {"all": [1, 2]}

    def body() -> int:
        return total_of.submit(numbers.submit().result()).result()

    runs = task_runs(client, run(body), 2)
    ids = {one["name"].rpartition("-")[0]: one["id"] for one in runs}
    last = next(one for one in runs if one["id"] == ids["total_of"])
    assert [origin["id"] for origin in last["task_inputs"]["named"]] == [ids["numbers"]]


def test_map_takes_each_value_and_repeats_what_is_unmapped():
    def body() -> list[int]:
        return add.map([1, 2, 3], unmapped(10)).result()

    assert run(body).result() == [11, 12, 13]


def test_a_failure_stops_what_depends_on_it_only(client: SyncPrefectClient):
    def body() -> None:
        failed = fail.submit()
        wait([add.submit(failed), told.submit(allow_failure(failed))])

    state = run(body)

    def shown() -> set[str]:
        runs = client.request("POST", "/task_runs/filter", json=about(state)).json()
        return {f"{run['name'].rpartition('-')[0]} {run['state_name']}" for run in runs}

    eventually(lambda: shown() == {"fail Failed", "told Completed", "add NotReady"})


def test_the_error_of_a_task_comes_back_as_it_was_raised():
    def body() -> str:
        with pytest.raises(ValueError, match="as it should"):
            fail.submit().result()
        return fail.submit().result(raise_on_failure=False).args[0]

    assert run(body).result() == "as it should"


@pytest.mark.parametrize("after", [0.0, 1.5], ids=["at once", "after a while"])
def test_a_killed_worker_is_shown_as_a_crash_of_its_task_run(client: SyncPrefectClient, after: float):
    @task(name="doomed")
    @resources(max_retries=0)
    def doomed() -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)

    state = run(lambda: doomed.submit().wait())
    (shown,) = task_runs(client, state, 1)
    assert shown["state_type"] == "CRASHED"
    assert shown["name"].startswith("doomed-")


def test_a_task_that_is_cancelled_as_soon_as_it_began_is_shown_as_crashed(client: SyncPrefectClient, tmp_path: Path):
    begun = tmp_path / "begun"

    @task(name="cancelled")
    @resources(max_calls=1)  # its process ends with it, and can tell nothing later
    def cancelled() -> None:
        begun.touch()
        while True:
            time.sleep(0.01)

    def body() -> None:
        cancelled.submit()
        eventually(begun.exists, every=0.01)

    (shown,) = task_runs(client, run(body), 1)
    assert shown["state_type"] == "CRASHED"


def test_retries_are_made_and_counted(client: SyncPrefectClient, tmp_path: Path):
    @task(retries=2)
    def third_time_lucky() -> int:
        with (tmp_path / "tries").open("a") as tries:
            tries.write("x")
        assert (tmp_path / "tries").stat().st_size == 3
        return 3

    state = run(lambda: third_time_lucky.submit().result())
    assert state.result() == 3
    assert task_runs(client, state, 1)[0]["run_count"] == 3


def test_a_task_that_takes_too_long_is_timed_out(client: SyncPrefectClient):
    @task(timeout_seconds=0.5)
    def endless() -> None:
        time.sleep(30)

    state = run(lambda: endless.submit().wait())
    assert task_runs(client, state, 1)[0]["state_name"] == "TimedOut"


def test_a_cached_result_is_used_again_and_shown_as_cached(client: SyncPrefectClient, tmp_path: Path):
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
    assert sorted(one["state_name"] for one in task_runs(client, state, 2)) == ["Cached", "Completed"]
    assert (tmp_path / "calls").read_text() == "x"


def test_async_tasks_run_in_async_flows():
    @task
    async def slow_add(first: int, second: int) -> int:
        await asyncio.sleep(0.01)
        return first + second

    async def body() -> int:
        return sum(future.result() for future in [slow_add.submit(1, 2), slow_add.submit(3, 4)])

    assert asyncio.run(on_ray(body)()) == 10


def test_waiting_with_a_limit_gives_up_and_the_task_goes_on():
    def body() -> tuple[int, int]:
        future = nap.submit(2)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.2)
        done, not_done = wait([future, add.submit(1)], timeout=1)
        assert len(done) + len(not_done) == 2
        future.result()
        return len(done), len(not_done)

    assert run(body).result() == (1, 1)


def test_what_waits_for_a_future_is_called_when_it_is_done():
    def body() -> list[Any]:
        heard: list[Any] = []
        future = add.submit(1)
        future.add_done_callback(lambda done: heard.append(done.result()))
        future.wait()
        eventually(lambda: heard)
        return heard

    assert run(body).result() == [2]


def test_resources_are_those_of_the_task_unless_the_call_says_otherwise():
    @task
    @resources(num_cpus=0.5)
    def granted() -> float:
        import ray

        return ray.get_runtime_context().get_assigned_resources()["CPU"]

    def body() -> tuple[float, float]:
        with remote_options(num_cpus=1.5):
            other = granted.submit()
        return granted.submit().result(), other.result()

    assert run(body).result() == (0.5, 1.5)


def test_a_process_serves_as_many_task_runs_as_the_task_says():
    @task
    @resources(max_calls=1)
    def process() -> int:
        return os.getpid()

    def body() -> list[int]:
        return [process.submit().result() for _ in range(3)]

    assert len(set(run(body).result())) == 3


def test_tags_around_the_submit_are_those_of_the_task_run(client: SyncPrefectClient):
    @task(tags=["own"])
    def tagged() -> list[str]:
        return sorted(TagsContext.get().current_tags)

    def body() -> list[str]:
        with tags("around"):
            return tagged.submit().result()

    state = run(body)
    assert state.result() == ["around"]
    assert sorted(task_runs(client, state, 1)[0]["tags"]) == ["around", "own"]


def test_a_task_knows_its_flow_run():
    @task
    def asked() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    state = run(lambda: asked.submit().result())
    assert state.result() == str(state.state_details.flow_run_id)


def test_a_task_may_submit_tasks_and_a_flow_may_call_flows(client: SyncPrefectClient):
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
    runs = task_runs(client, state, 4)
    assert sorted(one["name"].rpartition("-")[0] for one in runs) == ["add", "add", "parent", "tested"]


def test_everything_that_a_task_run_says_is_in_the_log_of_the_run(client: SyncPrefectClient):
    @task
    def talk() -> None:
        import ray

        @ray.remote(num_cpus=0)
        def nested() -> None:
            print("nested work prints")  # noqa: T201

        get_run_logger().info("the task logs")
        logging.getLogger("rayworks.data.any").info("the library logs")
        ray.get(nested.remote())

    state = run(lambda: talk.submit().wait())
    (of_task,) = task_runs(client, state, 1)
    assert logged(client, state, "the task logs")["task_run_id"] == of_task["id"]
    assert logged(client, state, "the library logs")["task_run_id"] == of_task["id"]
    assert logged(client, state, "nested work prints")["message"].startswith("(nested pid=")
    assert logged(client, state, "Finished in state Completed()")


def test_a_long_task_is_seen_running_and_heard_before_it_ends(tmp_path: Path):
    @task
    def long() -> None:
        get_run_logger().info("still at it")
        while not (tmp_path / "seen").exists():
            time.sleep(0.05)

    def body() -> None:
        future = long.submit()
        run_id = str(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        of_run = {"flow_runs": {"id": {"any_": [run_id]}}}
        of_log = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        with get_client(sync_client=True) as client:

            def heard() -> bool:
                return any(
                    line["message"] == "still at it"
                    for line in client.request("POST", "/logs/filter", json=of_log).json()
                )

            def running() -> bool:
                return [
                    run["state_name"] for run in client.request("POST", "/task_runs/filter", json=of_run).json()
                ] == ["Running"]

            eventually(lambda: heard() and running())
        (tmp_path / "seen").touch()
        future.result()

    assert run(body).is_completed()


def test_artifacts_and_assets_of_a_task_are_kept(client: SyncPrefectClient):
    @task
    def describe() -> None:
        create_markdown_artifact("# what it made", key="made")

    @materialize("s3://bucket/table.parquet")
    def write() -> None: ...

    def body() -> None:
        describe.submit().wait()
        write.submit().wait()

    state = run(body)
    of_run = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    kept = eventually(lambda: client.request("POST", "/artifacts/filter", json=of_run).json())
    assert [(one["key"], one["data"]) for one in kept if one["key"] == "made"] == [("made", "# what it made")]
    events = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}}
    found = eventually(lambda: client.request("POST", "/events/filter", json=events).json()["events"])
    assert found[0]["resource"]["prefect.resource.id"] == "s3://bucket/table.parquet"


def test_an_asset_that_is_made_from_another_is_shown_with_it(client: SyncPrefectClient):
    @materialize("s3://bucket/raw.parquet")
    def extract() -> int:
        return 1

    @materialize("s3://bucket/clean.parquet")
    def clean(rows: int) -> int:
        return rows

    def body() -> None:
        clean.submit(extract.submit()).wait()

    run(body)
    made = {
        "filter": {
            "resource": {"id": ["s3://bucket/clean.parquet"]},
            "event": {"prefix": ["prefect.asset.materialization"]},
        }
    }
    (event,) = eventually(lambda: client.request("POST", "/events/filter", json=made).json()["events"])
    origins = [one["prefect.resource.id"] for one in event["related"] if one["prefect.resource.role"] == "asset"]
    assert origins == ["s3://bucket/raw.parquet"]


def test_nothing_is_lost_of_many_short_tasks(client: SyncPrefectClient):
    def body() -> int:
        return sum(add.map(range(100)).result())

    state = run(body)
    assert state.result() == 5050
    runs = task_runs(client, state, 100)
    assert {one["state_name"] for one in runs} == {"Completed"}
    assert all(one["start_time"] and one["end_time"] for one in runs)


def test_a_task_that_closes_over_what_cannot_be_sent_is_named_with_the_variable():
    lock = threading.Lock()

    @task
    def guarded() -> None:
        with lock:
            pass

    with pytest.raises(
        TransferError, match=r"^The function of task 'guarded' cannot be sent to a worker: its variable lock \("
    ):
        run(lambda: guarded.submit()).result()


def test_a_flow_that_closes_over_what_cannot_be_sent_is_named_with_the_variable():
    lock = threading.Lock()

    def body() -> None:
        with lock:
            add.submit(1)

    with pytest.raises(
        TransferError, match=r"^The function of flow 'tested', which goes with .* 'add', .*: its variable lock \("
    ):
        run(body).result()


def test_a_parameter_that_cannot_be_sent_is_named():
    def body() -> None:
        add.submit([threading.Lock()], 2)

    with pytest.raises(
        TransferError, match=r"^Parameter 'first' of task 'add' cannot be sent to a worker \(TypeError: "
    ):
        run(body).result()


def test_the_last_words_of_a_flow_are_with_the_server_before_it_is_stopped(client: SyncPrefectClient):
    @flow(name="talks")
    def talks() -> None:
        get_run_logger().info("my last words")

    state = talks(return_state=True)
    server.flush()
    question = {"logs": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    assert "my last words" in [line["message"] for line in client.request("POST", "/logs/filter", json=question).json()]
