"""Ray and a client of the Prefect API for the flows of a module."""

import os
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client


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
