"""Cheap fixtures only: nothing here starts Ray, Prefect or a server unless a test asks for it."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

# Ray would start each worker through `uv run` when the tests are (its default hook), and takes a token of this
# machine for its own when it finds one.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Ray starts its workers with the lowest priority but four: beside other tests, two took a minute to start.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")

SLOW_FOLDERS = ("deployments", "faults")  # whole installations, and processes that are killed


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return 3 for the whole suite, whose tests wait a third of their time, and 2 for the slow ones, which start more
    processes. Tests given by name run in this process."""
    if config.args_source is not config.ArgsSource.TESTPATHS:
        return 0
    return 2 if config.option.markexpr else 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run all tests that connect to one Ray in one process, since a process can be connected to one Ray only.

    They start first, because these processes end last. Those that fill the memory start last:
    on a virtual machine, all that runs beside and after them is slower.

    The slow tests are left out unless tests are chosen, by name or by marker.
    """
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
    if config.args_source is config.ArgsSource.TESTPATHS and not (config.option.markexpr or config.option.keyword):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]

    def ray_of(item: pytest.Item) -> str | None:
        fixtures = getattr(item, "fixturenames", ())
        return next((name for name in ("ray_session", "ray_for_flows") if name in fixtures), None)

    def fills_memory(item: pytest.Item) -> bool:
        return any(marker.args == ("memory",) for marker in item.iter_markers("xdist_group"))

    for item in items:
        if ray := ray_of(item):
            item.add_marker(pytest.mark.xdist_group(ray))
    items.sort(key=lambda item: (ray_of(item) is None, fills_memory(item)))


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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, which sees pages as users do. Not for the session: Playwright runs an event loop in this thread."""
    executable = os.environ.get("RAYWORKS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("NO BROWSER: install chromium or set RAYWORKS_TEST_CHROMIUM to test that reports open")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
