"""``rayworks.prefect_api.execute_flow_run`` runs the flow run of a pod, and reports how it ended."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect._internal import observers
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Running, State

from rayworks.prefect_api import _private
from tests.forwarder import Forwarder
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
FLOWS = """
import os, signal, sys, time
from pathlib import Path
from prefect import flow, runtime

@flow
def ends(how: str, seen: str):
    Path(seen).write_text(f"{os.getcwd()} {runtime.flow_run.id} {sys.argv[1:]}")
    if how == "raises":
        raise ValueError("a reason")
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "waits":
        time.sleep(600)
"""


def created(client: SyncPrefectClient, folder: Path, how: str) -> UUID:
    """Return the ID of a new flow run."""
    (folder / "flows.py").write_text(FLOWS)
    pull_steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    flow_id = client.create_flow_from_name("ends")
    deployment = client.create_deployment(flow_id, "ends", entrypoint="flows.py:ends", pull_steps=pull_steps)
    parameters = {"how": how, "seen": str(folder / "seen")}
    return client.create_flow_run_from_deployment(deployment, parameters=parameters).id


def started(client: SyncPrefectClient, run_id: UUID, **environment: str) -> "subprocess.Popen[str]":
    """Start the process that executes a flow run. Its output ends when all processes that hold it have ended."""
    own = {"PREFECT__FLOW_RUN_ID": str(run_id), "PREFECT_API_URL": str(client.api_url), **environment}
    command = [sys.executable, "-m", "rayworks.prefect_api.execute_flow_run"]
    pipe, stdout = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=pipe, stderr=stdout, text=True)


def execute(client: SyncPrefectClient, run_id: UUID) -> tuple[State, str]:
    """Execute a flow run; return its last state, and what the process printed."""
    with started(client, run_id) as process:
        output, _ = process.communicate(timeout=120)
    last = client.read_flow_run(run_id).state
    assert last is not None
    assert process.returncode == 0, output
    return last, output


def test_the_flow_runs_in_its_folder_and_knows_its_flow_run(client: SyncPrefectClient, tmp_path: Path):
    run_id = created(client, tmp_path, "completes")
    state, output = execute(client, run_id)
    assert state.is_completed(), output
    assert (tmp_path / "seen").read_text() == f"{tmp_path} {run_id} []"
    assert "Warning" not in output


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [("raises", "FAILED", "ValueError: a reason"), ("is killed", "CRASHED", "Process exited with status code: -9")],
)
def test_how_a_flow_run_ended_is_reported(client: SyncPrefectClient, tmp_path: Path, how: str, kind: str, message: str):
    state, output = execute(client, created(client, tmp_path, how))
    assert state.type.value == kind, output
    assert message in (state.message or "")


def test_a_flow_run_that_was_cancelled_before_it_started_does_not_start(client: SyncPrefectClient, tmp_path: Path):
    run_id = created(client, tmp_path, "completes")
    client.set_flow_run_state(run_id, Cancelling(), force=True)
    state, output = execute(client, run_id)
    assert state.is_cancelled(), output
    assert not (tmp_path / "seen").exists()


# As Prefect's worker sets it for a Job that Kubernetes does not repeat.
OF_A_JOB = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule", "RAYWORKS_JOB_NAME": "first"}


def evicted(client: SyncPrefectClient, folder: Path, job: str | None = None) -> tuple[State, str]:
    """Evict the pod of a flow run that waits; return its last state, and what the process printed.

    Args:
        client: Of the Prefect API.
        folder: A folder of the test's own.
        job: The Job that the worker has started last for the flow run, as the server knows it; the pod's is ``first``.
    """
    run_id = created(client, folder, "waits")
    with started(client, run_id, **OF_A_JOB) as process:
        eventually((folder / "seen").exists, 60)
        if job:
            client.update_flow_run(run_id, infrastructure_pid=f"namespace:{job}")
        process.terminate()
        output, _ = process.communicate(timeout=60)
    state = client.read_flow_run(run_id).state
    assert state is not None
    assert process.returncode == 0, output
    return state, output


def test_a_flow_run_whose_pod_is_evicted_is_scheduled_again(client: SyncPrefectClient, tmp_path: Path):
    state, output = evicted(client, tmp_path)
    assert state.is_scheduled(), (state, output)


def test_a_flow_run_that_runs_in_another_pod_is_not_scheduled_again(client: SyncPrefectClient, tmp_path: Path):
    state, output = evicted(client, tmp_path, "second")
    assert state.is_running(), (state, output)


def test_a_flow_run_whose_pod_is_evicted_while_the_server_is_away_is_scheduled_when_it_responds(
    client: SyncPrefectClient, tmp_path: Path
):
    run_id = created(client, tmp_path, "waits")
    impatient = {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # Prefect's client gives up at once, not after a minute
    with (
        Forwarder(str(client.api_url)) as forwarder,
        started(client, run_id, **OF_A_JOB, **impatient, PREFECT_API_URL=forwarder.url) as process,
    ):
        eventually((tmp_path / "seen").exists, 60)
        forwarder.is_away.set()
        process.terminate()
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "is scheduled again when the Prefect server responds" in line:
                forwarder.is_away.clear()
        assert process.wait(60) == 0, printed
    state = client.read_flow_run(run_id).state
    assert state is not None
    assert state.is_scheduled(), (state, printed)


def test_a_pod_outlives_its_wait_for_the_server_and_the_retries_of_what_it_proposes_then():
    pool = json.loads((ROOT / "deployments/kubernetes/base/work-pool.json").read_text())
    pod = pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    retries = sum(2**attempt for attempt in range(1, 6))  # of Prefect's client, in seconds
    assert pod["terminationGracePeriodSeconds"] > _private.SERVER_AWAY_SECONDS + retries


def test_a_cancelled_flow_run_is_noticed_after_the_server_was_away_for_longer_than_prefect_asks(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_id = created(client, tmp_path, "waits")
    for state in (Running(), Cancelling()):  # one that does not run is cancelled at once
        client.set_flow_run_state(run_id, state, force=True)
    monkeypatch.setattr(observers, "critical_service_loop", observers.__dict__["critical_service_loop"])  # for its end
    _private._observe_cancellation_through_outages()
    noticed: list[UUID] = []

    async def observe(forwarder: Forwarder) -> None:
        async with observers.FlowRunCancellingObserver(noticed.append, polling_interval=0.1) as observer:
            observer.add_in_flight_flow_run_id(run_id)
            refused = forwarder.refused
            while not noticed:
                await asyncio.sleep(0.1)
                if forwarder.refused > refused + 3:  # Prefect gives up after three
                    forwarder.is_away.clear()

    with Forwarder(str(client.api_url)) as forwarder:
        forwarder.is_away.set()
        with temporary_settings({PREFECT_API_URL: forwarder.url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            asyncio.run(asyncio.wait_for(observe(forwarder), 60))
    assert noticed == [run_id]


def test_an_unknown_flow_run_is_an_error_and_leaves_no_process(client: SyncPrefectClient):
    with started(client, UUID(int=0)) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ObjectNotFound" in output
