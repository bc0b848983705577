"""Cheap fixtures only: nothing here starts Ray, Prefect or a server unless a test asks for it."""

import os
from pathlib import Path

import pytest

# Ray would start each worker through `uv run` when the tests are (its default hook), and takes a token of this
# machine for its own when it finds one.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def storage_uri(tmp_path: Path) -> str:
    """An empty storage folder."""
    return str(tmp_path / "storage")


@pytest.fixture(scope="session")
def ray_session():
    """One embedded Ray for all tests of a session that ask for no other: two CPUs, no dashboard."""
    from rayworks.cluster import connection

    connection.prepare()
    ray = connection.EmbeddedRay()
    ray.acquire({}, {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 500_000_000})
    yield
    ray.release()
