"""The Prefect server shows the logs, artifacts and assets of task runs on Ray."""

import io
import logging
import time
from pathlib import Path

import pytest
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.assets import materialize
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from rich.console import Console

from rayworks import RayTaskRunner, command_line
from rayworks.prefect_api import server
from tests.flows.flow_runs import add, log_line, on_ray, run, shown_task_runs, task_runs
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


def test_the_log_of_a_run_has_the_lines_of_its_tasks_of_the_library_and_of_nested_work(client: SyncPrefectClient):
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
    (task_run,) = task_runs(client, state, 1)
    assert log_line(client, state, "the task logs")["task_run_id"] == task_run["id"]
    assert log_line(client, state, "the library logs")["task_run_id"] == task_run["id"]
    assert log_line(client, state, "nested work prints")["message"].startswith("(nested pid=")
    assert log_line(client, state, "Finished in state Completed()")


def test_the_log_of_a_run_has_the_lines_of_nested_work_also_after_a_subflow(client: SyncPrefectClient):
    @task
    def start_nested_work() -> None:
        import ray

        @ray.remote
        def nested() -> None:
            print("printed after the subflow")  # noqa: T201

        ray.get(nested.remote())

    def body() -> None:
        add.submit(1).result()
        on_ray(lambda: add.submit(2).result())()
        start_nested_work.submit().result()

    assert log_line(client, run(body), "printed after the subflow")


def test_the_state_and_the_log_of_a_long_task_are_shown_before_it_ends(tmp_path: Path):
    @task
    def long() -> None:
        get_run_logger().info("still working")
        while not (tmp_path / "shown").exists():
            time.sleep(0.05)

    def body() -> None:
        future = long.submit()
        run_id = str(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        of_log = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        with get_client(sync_client=True) as client:

            def messages() -> list[str]:
                return [line["message"] for line in client.request("POST", "/logs/filter", json=of_log).json()]

            def states() -> list[str]:
                return [run["state_name"] for run in shown_task_runs(client, run_id)]

            eventually(lambda: "still working" in messages() and states() == ["Running"])
        (tmp_path / "shown").touch()
        future.result()

    assert run(body).is_completed()


def test_artifacts_and_assets_of_a_task_are_stored(client: SyncPrefectClient):
    @task
    def describe() -> None:
        create_markdown_artifact("# a description", key="description")

    @materialize("s3://bucket/table.parquet")
    def write() -> None: ...

    def body() -> None:
        describe.submit().wait()
        write.submit().wait()

    state = run(body)
    of_run = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    artifacts = eventually(lambda: client.request("POST", "/artifacts/filter", json=of_run).json())
    descriptions = [artifact["data"] for artifact in artifacts if artifact["key"] == "description"]
    assert descriptions == ["# a description"]
    succeeded = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}}
    events = eventually(lambda: client.request("POST", "/events/filter", json=succeeded).json()["events"])
    assert events[0]["resource"]["prefect.resource.id"] == "s3://bucket/table.parquet"


def test_an_asset_is_shown_with_the_asset_that_it_was_created_from(client: SyncPrefectClient):
    @materialize("s3://bucket/raw.parquet")
    def extract() -> int:
        return 1

    @materialize("s3://bucket/clean.parquet")
    def clean(rows: int) -> int:
        return rows

    def body() -> None:
        clean.submit(extract.submit()).wait()

    run(body)
    of_clean = {
        "filter": {
            "resource": {"id": ["s3://bucket/clean.parquet"]},
            "event": {"prefix": ["prefect.asset.materialization"]},
        }
    }
    (event,) = eventually(lambda: client.request("POST", "/events/filter", json=of_clean).json()["events"])
    related = {resource["prefect.resource.role"]: resource["prefect.resource.id"] for resource in event["related"]}
    assert related["asset"] == "s3://bucket/raw.parquet"
    assert [resource["prefect.resource.role"] for resource in event["related"]].count("asset") == 1


def test_the_table_of_a_command_shows_the_end_of_each_task_run_though_the_server_stores_it_later():
    @task
    def first() -> None: ...

    @task
    def second() -> None: ...

    @flow(name="brief", task_runner=RayTaskRunner())
    def brief() -> None:
        first.submit().result()
        second.submit().result()

    output = io.StringIO()
    command_line._run_with_progress(brief, {}, Console(file=output, width=100))
    assert [line.split()[:2] for line in output.getvalue().splitlines()] == [["✓", "first"], ["✓", "second"]]


def test_the_last_log_lines_of_a_flow_are_stored_before_its_server_stops(client: SyncPrefectClient):
    @flow(name="talks")
    def talks() -> None:
        get_run_logger().info("my last words")

    state = talks(return_state=True)
    server.flush()
    query = {"logs": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    assert "my last words" in [line["message"] for line in client.request("POST", "/logs/filter", json=query).json()]
