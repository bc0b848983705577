"""Ray for the flows of a module."""

import os

import pytest


@pytest.fixture(scope="module")
def ray_for_flows(prefect_api: str, tmp_path_factory: pytest.TempPathFactory):
    """Embedded Ray, as a program holds it for several flows."""
    os.environ["RAYWORKS_STORAGE_URI"] = str(tmp_path_factory.mktemp("storage"))
    from rayworks.runner.task_runner import ray_running

    with ray_running(init_kwargs={"num_cpus": 2, "object_store_memory": 200_000_000, "include_dashboard": False}):
        yield
    del os.environ["RAYWORKS_STORAGE_URI"]
