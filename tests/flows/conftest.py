"""One Prefect server for all flow tests, the same embedded one that the command line starts; Ray for a module."""

import os

import pytest

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory):
    """The URL of an embedded server on a fresh home."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ.pop("PREFECT_API_URL", None)
    from rayworks import prefect_server

    server = prefect_server.start()
    assert server is not None
    server.wait()
    yield server.api_url
    server.stop()


@pytest.fixture(scope="module")
def ray_for_flows(prefect_api: str, tmp_path_factory: pytest.TempPathFactory):
    """Embedded Ray, as a program holds it for several flows."""
    os.environ["RAYWORKS_STORAGE_URI"] = str(tmp_path_factory.mktemp("storage"))
    from rayworks.runner import ray_running

    with ray_running(init_kwargs={"num_cpus": 2, "object_store_memory": 200_000_000, "include_dashboard": False}):
        yield
    del os.environ["RAYWORKS_STORAGE_URI"]
