"""Cheap fixtures only: nothing here starts Ray, Prefect or a server unless a test asks for it."""

import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

# Ray would start each worker through `uv run` when the tests are (its default hook), and takes a token of this
# machine for its own when it finds one.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in two processes, since most tests wait half of their time; what is named runs in this one."""
    return 2 if config.args_source is config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A process can be connected to one Ray, so all tests that connect theirs run in the same, one after the other."""
    for item in items:
        if {"ray_session", "ray_for_flows"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture
def storage_uri(tmp_path: Path) -> str:
    """An empty storage folder."""
    return str(tmp_path / "storage")


@pytest.fixture(scope="session")
def ray_session():
    """One embedded Ray for all tests of a session that ask for no other: two CPUs, no dashboard."""
    from rayworks.cluster import places
    from rayworks.cluster.embedded import EmbeddedRay

    places.prepare()
    ray = EmbeddedRay()
    ray.acquire({}, {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 500_000_000})
    yield
    ray.release()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory):
    """The URL of one Prefect server for all tests, the embedded one that the command line starts, on a fresh home."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ.pop("PREFECT_API_URL", None)
    from rayworks.prefect_api import server

    server = server.start()
    assert server is not None
    server.wait()
    with (
        closing(sqlite3.connect(_home() / "prefect.db")) as database,
        closing(sqlite3.connect(_home() / "new.db")) as copy,
    ):
        database.backup(copy)
    yield server.api_url
    server.stop()


def _home() -> Path:
    return Path(os.environ["PREFECT_HOME"])


@pytest.fixture
def prefect_home(prefect_api: str, tmp_path: Path) -> Path:
    """A home of Prefect with a migrated database: a server on a fresh one takes three times as long to start."""
    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(_home() / "new.db", home / "prefect.db")
    return home
