"""However a flow ends, none of the processes that it started goes on running."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelling, State

from tests.flows.flow_runs import shown_task_runs
from tests.marked_processes import MARK, processes_with
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).parent / "flow_that_waits.py"


class Program:
    """The flow in another process. All descendants of that process inherit a mark in their environment."""

    def __init__(
        self, folder: Path, *arguments: str, start: tuple[str, ...] = (str(PROGRAM),), **environment: str
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.progress = folder / "progress"
        self.progress.mkdir()
        marked = {MARK: self.mark, "RAYWORKS_STORAGE_URI": str(folder / "storage")}
        inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *start, *(arguments or (str(self.progress),))],
            env={**inherited, **marked, **environment},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_working(self) -> None:
        eventually(
            lambda: self.process.poll() is not None or len(list(self.progress.iterdir())) == 2,
            180,
            "the tasks never started",
        )
        assert self.process.poll() is None, self.output()

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def assert_no_process_left(self, except_for: tuple[str, ...] = ()) -> None:
        def left() -> list[str]:
            return [line for line in processes_with(self.mark) if not any(text in line for text in except_for)]

        deadline = time.monotonic() + 30
        while left() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left() == [], self.output()


@pytest.fixture
def program(prefect_home: Path, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*arguments: str, **options: Any) -> Program:
        started.append(Program(tmp_path, *arguments, PREFECT_HOME=str(prefect_home), **options))
        return started[-1]

    yield start
    for program in started:
        for line in processes_with(program.mark):
            os.kill(int(line.split()[0]), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_a_flow_ends_its_ray_its_server_and_its_nested_actors(program, number: signal.Signals) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.send_signal(number)
    flow.process.wait(timeout=40)
    flow.assert_no_process_left()


def test_a_killed_flow_leaves_only_agents_of_ray_which_end_by_themselves(program) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.kill()
    flow.process.wait()
    # For a minute, these two try to report the end of their raylet to the driver (ray._private.process_watcher).
    flow.assert_no_process_left(except_for=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))


def test_ctrl_c_twice_leaves_no_process(program) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # an impatient user
    flow.process.send_signal(signal.SIGINT)
    flow.process.wait(timeout=40)
    flow.assert_no_process_left()


def test_a_flow_that_fails_shows_its_running_tasks_as_crashed(prefect_api: str, program, tmp_path: Path) -> None:
    flow = program(str(tmp_path / "progress"), "fail", PREFECT_API_URL=prefect_api)
    flow.process.wait(timeout=90)
    assert "the flow fails while its tasks run" in flow.output()
    assert "Cancelled 2 task runs" in flow.output()
    flow.assert_no_process_left()
    with get_client(sync_client=True) as client:
        (run_id,) = {UUID(match) for match in re.findall(r"/runs/flow-run/([0-9a-f-]{36})", flow.output())}
        eventually(lambda: states_of_tasks(client, run_id) == ["CRASHED", "CRASHED"])


def test_a_signal_to_the_process_group_of_a_flow_does_not_reach_its_ray(program) -> None:
    flow = program()
    flow.wait_until_working()
    of_ray = [line for line in processes_with(flow.mark) if "raylet" in line or "gcs_server" in line or "ray::" in line]
    assert len(of_ray) > 4
    assert [line for line in of_ray if os.getpgid(int(line.split()[0])) == flow.process.pid] == []


def states_of_tasks(client: SyncPrefectClient, flow_run_id: UUID) -> list[str]:
    return [run["state_type"] for run in shown_task_runs(client, flow_run_id)]


def start_served(
    client: SyncPrefectClient, program: Callable[..., Program], api_url: str, folder: Path
) -> tuple[Program, UUID]:
    """A process that serves the flow as a deployment, and a run of it."""
    started = program("serve", PREFECT_API_URL=api_url, PREFECT_RUNNER_POLL_FREQUENCY="1")
    query = {"deployments": {"name": {"any_": ["served"]}}}
    (deployment,) = eventually(
        lambda: client.request("POST", "/deployments/filter", json=query).json(), 90, "it was never served"
    )
    run = client.create_flow_run_from_deployment(deployment["id"], parameters={"folder": str(folder / "progress")})
    return started, run.id


def start_executed(
    client: SyncPrefectClient, program: Callable[..., Program], api_url: str, folder: Path
) -> tuple[Program, UUID]:
    """A run of a deployment, and the process that executes it by Prefect's command."""
    return _start_executed(client, program, api_url, folder, "prefect", "flow-run", "execute")


def start_in_a_pod(
    client: SyncPrefectClient, program: Callable[..., Program], api_url: str, folder: Path
) -> tuple[Program, UUID]:
    """A run of a deployment, and the process that executes it as in a pod of the installation on Kubernetes."""
    return _start_executed(client, program, api_url, folder, "rayworks.prefect_api.execute_flow_run")


def _start_executed(
    client: SyncPrefectClient, program: Callable[..., Program], api_url: str, folder: Path, *module: str
) -> tuple[Program, UUID]:
    entrypoint = f"{PROGRAM.relative_to(ROOT)}:waits"
    pull_steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    flow_id = client.create_flow_from_name("waits")
    deployment = client.create_deployment(flow_id, "executed", entrypoint=entrypoint, pull_steps=pull_steps)
    run = client.create_flow_run_from_deployment(deployment, parameters={"folder": str(folder / "progress")})
    environment = {
        "PREFECT_API_URL": api_url,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT__FLOW_RUN_ID": str(run.id),
    }
    return program("-m", *module, start=(), **environment), run.id


@pytest.mark.parametrize("start", [start_served, start_executed, start_in_a_pod])
def test_a_run_that_is_cancelled_through_the_api_is_cancelled_and_leaves_no_process(
    prefect_api: str, program, tmp_path: Path, start
):
    with get_client(sync_client=True) as client:
        runner, run_id = start(client, program, prefect_api, tmp_path)
        runner.wait_until_working()
        client.set_flow_run_state(run_id, Cancelling())

        def state() -> State | None:
            return client.read_flow_run(run_id).state

        eventually(lambda: state().is_final(), 60, "the run never ended")
        assert state().is_cancelled(), runner.output()
        # The process that serves the deployment goes on, and so does its resource tracker.
        serving = ("flow_that_waits.py serve", "multiprocessing.resource_tracker")
        runner.assert_no_process_left(except_for=(*serving, "-m prefect flow-run", "execute_flow_run"))
        eventually(lambda: states_of_tasks(client, run_id) == ["CRASHED", "CRASHED"])
    runner.process.send_signal(signal.SIGTERM)
    runner.process.wait(timeout=40)
    runner.assert_no_process_left()
