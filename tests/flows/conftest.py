"""Ray and a client of the Prefect API for the flows of a module."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from rayworks import RayTaskRunner
from tests.flows.flow_runs import Run


@pytest.fixture(scope="module")
def ray_for_flows(prefect_api: str, tmp_path_factory: pytest.TempPathFactory):
    """Embedded Ray that all flows of a module share."""
    os.environ["RAYWORKS_STORAGE_URI"] = str(tmp_path_factory.mktemp("storage"))
    from rayworks import ray_running

    with ray_running(init_kwargs={"num_cpus": 2, "object_store_memory": 200_000_000, "include_dashboard": False}):
        yield
    del os.environ["RAYWORKS_STORAGE_URI"]


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(params=[ThreadPoolTaskRunner, RayTaskRunner], ids=["threads", "ray"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a function as a flow on threads or on Ray, and returns the flow run's last state."""

    def run_as_flow(body: Callable[[], Any]) -> State[Any]:
        return flow(task_runner=request.param(), name="tested")(body)(return_state=True)

    return run_as_flow


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A file to which ``flow_runs.note`` appends."""
    (tmp_path / "notes").touch()
    return tmp_path / "notes"
