"""One installation for all processes of a test session, on a real cluster with KubeRay.

The tests need ``kubectl``, and these environment variables:

- ``KUBECONFIG``: the cluster.
- ``RAYWORKS_TEST_IMAGE``: the project's image, as the cluster pulls it.
- ``RAYWORKS_TEST_POSTGRES_IMAGE``: ``postgres:16`` by default.
- ``RAYWORKS_TEST_REDIS_IMAGE``: ``redis:7`` by default.
- ``RAYWORKS_TEST_SHARED_FOLDER``: a folder that all nodes share. Without it the cluster's default storage class must
  offer ReadWriteMany.
- ``RAYWORKS_TEST_NODE_DOWN``, ``RAYWORKS_TEST_NODE_UP``: commands that take the name of a node and make it fail, and
  restore it. Without them the loss of a node is not tested.

Several processes may share the installation (``--numprocesses=2``, enough for two cores). A test therefore
asserts what became of its own run (``run.ray``), not of the namespace; ``test_nothing_is_left.py`` checks the
namespace at the end.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import installation as installing
from tests.cluster import runs, shared
from tests.cluster.installation import Installation
from tests.cluster.kubernetes_access import START_SECONDS, Cluster, Namespace
from tests.cluster.runs import FlowRun, JobRun


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what needs no installation, while that starts, and then with what takes longest."""

    def rank(item: pytest.Item) -> tuple[int, bool, float]:
        if not item.get_closest_marker("kubernetes"):
            return -1, False, 0
        minutes = item.get_closest_marker("minutes")
        needs_installation = "installation" in getattr(item, "fixturenames", ())
        return shared.is_last(item), needs_installation, -minutes.args[0] if minutes else 0

    items.sort(key=rank)
    for item in filter(shared.is_last, items):
        # One unit of work, the last one: xdist then gives no other test to the process in which they wait.
        item.add_marker(pytest.mark.xdist_group("last"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Let the last tests wait for all others before their time-out counts."""
    if not item.get_closest_marker("kubernetes") or _is_unconfigured():
        return (yield)
    ended = shared.EndedTests(shared.session_folder())
    if shared.is_last(item):
        ended.wait_for_others(item)
    try:
        return (yield)
    finally:
        ended.add(item)


def _is_unconfigured() -> bool:
    return not os.environ.get("KUBECONFIG") or not os.environ.get("RAYWORKS_TEST_IMAGE")


@pytest.fixture(scope="session")
def image() -> str:
    """The project's image, as the cluster names it."""
    if _is_unconfigured():
        pytest.skip(
            "NOT TESTED ON KUBERNETES: set KUBECONFIG, and RAYWORKS_TEST_IMAGE to an image that the cluster can pull"
        )
    return os.environ["RAYWORKS_TEST_IMAGE"]


@pytest.fixture(scope="session")
def cluster(image: str) -> Iterator[Cluster]:
    """The cluster under test; each node has the image."""
    with (
        Cluster.connect(image) as connected,
        shared.shared_by_processes("image", connected.pull_image, lambda _: None),
    ):
        yield connected


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace for one test."""
    created = Namespace.create(cluster)
    yield created
    created.delete()


@pytest.fixture(scope="session")
def overlay(cluster: Cluster) -> Iterator[tuple[Namespace, Path]]:
    """The namespace of the installation, and the folder to ``kubectl apply -k`` there."""

    def create() -> tuple[str, str]:
        namespace = Namespace.create(cluster)
        return namespace.name, str(
            installing.prepare(namespace, Path(tempfile.mkdtemp(prefix="rayworks-installation-")))
        )

    def delete(created: tuple[str, str]) -> None:
        installing.remove(Namespace(cluster, created[0]))

    with shared.shared_by_processes("overlay", create, delete) as (name, folder):
        yield Namespace(cluster, name), Path(folder)


@pytest.fixture(scope="session")
def installation(overlay: tuple[Namespace, Path]) -> Iterator[Installation]:
    """A working installation."""
    namespace, folder = overlay
    working = Installation(namespace, folder.parent / "base")
    with shared.shared_by_processes("installation", lambda: installing.install(working, folder), lambda _: None):
        yield working


@pytest.fixture(scope="session")
def runs_over_a_restart(installation: Installation) -> list[FlowRun]:
    """Two runs that worked when the Prefect server was restarted. The pod of the second was deleted meanwhile.

    The first works for longer than two renewals of its lease. Both end by themselves: the process that started them may
    have ended by then.
    """

    def create() -> list[dict[str, str]]:
        started = [runs.start_flow_run(installation, runs.TWO_RENEWALS_SECONDS) for _ in range(2)]
        for run in started:
            run.wait_for("second.started")
        kubectl = installation.namespace.kubectl
        kubectl("rollout", "restart", "deployment/prefect-server")
        kubectl("delete", "pod", f"--selector=prefect.io/flow-run-id={started[1].id}", "--wait=false")
        kubectl("rollout", "status", "deployment/prefect-server", f"--timeout={START_SECONDS}s")
        return [{"id": run.id, "folder": run.folder, "cluster_name": str(run.cluster_name)} for run in started]

    return [FlowRun(installation, **run) for run in shared.created_once("runs-over-a-restart", create)]


@pytest.fixture
def start_flow_run(installation: Installation) -> Iterator[Callable[..., FlowRun]]:
    """:func:`runs.start_flow_run` in the installation; a run that has not ended with the test is cancelled."""
    with runs.flow_runs(installation) as start:
        yield start


@pytest.fixture
def start_job(installation: Installation) -> Iterator[Callable[..., JobRun]]:
    """:func:`runs.start_job` in the installation; what is started is deleted after the test."""
    with runs.jobs(installation) as start:
        yield start
