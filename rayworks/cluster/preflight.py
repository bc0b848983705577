"""Whether driver and workers fit each other: the same versions, and one Prefect API and storage that all of them reach.

:func:`disagreements` is pure; :func:`worker_view` runs in a Ray worker on each node.
"""

import functools
import importlib.metadata
import os
import platform
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from rayworks import capacity, storage
from rayworks.errors import ClusterError, StorageError, first_line
from rayworks.settings import Settings

PACKAGES = ("ray", "prefect", "rayworks")
WORKER_SECONDS = 120
"""How long a worker may take to start, to import Prefect, and to return its view."""
REQUEST_SECONDS = 10
RESTART_SECONDS = 60
"""How long a restart of the Prefect server may take."""


@dataclass(frozen=True)
class View:
    """What one process has, and what it cannot reach."""

    node: str
    versions: dict[str, str]
    """By package, as :func:`versions` returns them. Empty if unknown."""
    problems: tuple[str, ...] = ()
    """What it cannot reach, each as a sentence; an empty one is no problem."""
    storage_problem: str = ""
    """Why it cannot use the driver's storage, as a sentence; empty if it can."""


def worker_view(node: str, api_url: str | None, token_uri: str | None, after: object) -> View:
    """Return the view of the Ray worker that runs this function.

    Args:
        node: Name of the worker's node.
        api_url: The Prefect API that its tasks will use; None: the one that its environment names.
        token_uri: A file that the driver wrote to its storage.
        after: The result of another Ray task, which runs first.
    """
    problem = api_problem(api_url or os.environ.get("PREFECT_API_URL"))
    return View(node, versions(), (problem,), _storage_problem(token_uri))


def versions() -> dict[str, str]:
    """Return the versions of Python and of each package in :data:`PACKAGES`; empty text if one is not installed.

    Python without its patch release: what one patch release pickles, another can read.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _version(package) for package in PACKAGES},
    }


class Preflight:
    """Requests the view of a worker on each Ray node, while the driver continues. Needs a connection to Ray.

    Args:
        api_url: The Prefect API that tasks will use; None: the workers' own environment names it.
        storage_uri: The driver's storage, which workers share that use it; None: they have a storage of their own.
        after: References to Ray tasks that run first, by the ids of their nodes. Their processes then return the views
            of their nodes, and get the first tasks.
    """

    def __init__(self, api_url: str | None, storage_uri: str | None, after: Mapping[str, Any] | None = None) -> None:
        self._api_url = api_url
        self._checked: set[bool] = set()
        self._token_uri: str | None = None
        self._storage_error: StorageError | None = None
        if storage_uri is not None:
            token_uri = storage.join(storage.absolute(storage_uri), f"preflight-{secrets.token_hex(4)}")
            try:
                storage.write_bytes(token_uri, b"rayworks")
                self._token_uri = token_uri
            except StorageError as error:  # raised if a task needs the storage
                self._storage_error = error
        self._nodes = {node_id: node["NodeManagerHostname"] for node_id, node in capacity.alive_nodes().items()}
        self._request_views(after or {})

    def _request_views(self, after: Mapping[str, Any]) -> None:
        self._views = {
            node_id: start_on(node_id, worker_view, name, self._api_url, self._token_uri, after.get(node_id))
            for node_id, name in self._nodes.items()
        }

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return list(self._nodes.values())

    def check(self, *, shared_storage: bool) -> None:
        """Wait for the views, and compare them with the driver's, the first time. Later calls cost nothing.

        Args:
            shared_storage: Whether the workers have to share the driver's storage.

        Raises:
            ClusterError: A worker did not start, or does not fit the driver.
            StorageError: The driver cannot write to a storage that has to be shared.
        """
        if shared_storage in self._checked:
            return
        if shared_storage and self._storage_error:
            raise self._storage_error
        check(View("the driver", versions()), self._received_views, shared_storage=shared_storage)
        self._checked.add(shared_storage)

    @functools.cached_property
    def _received_views(self) -> list[View]:
        """The views of the nodes, without those that have left the cluster."""
        try:
            views = self._await_views()
            if any(view.versions and any(view.problems) for view in views):
                # The server may have restarted while they asked it: they ask again once this process reaches it.
                await_api(self._api_url)
                self._request_views({})
                views = self._await_views()
        finally:
            if self._token_uri is not None:
                storage.delete(self._token_uri)
        return views

    def _await_views(self) -> list[View]:
        views = [self._view(node_id) for node_id in self._nodes]
        return [view for view in views if view is not None]

    def _view(self, node_id: str) -> View | None:
        """Return the view of a node's worker; None if the node has left the cluster."""
        import ray
        from ray.exceptions import RayError, TaskUnschedulableError

        try:
            return ray.get(self._views[node_id], timeout=WORKER_SECONDS)
        except TaskUnschedulableError:  # the autoscaler removed the idle node meanwhile
            return None
        except RayError as error:
            if node_id not in capacity.alive_nodes():
                return None
            message = (str(error).strip() or type(error).__name__).splitlines()[-1]
            return View(self._nodes[node_id], {}, (f"a worker could not start ({message})",))


def start_on(node_id: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a Ray task without CPUs on a node, and return the reference to its result. It fails without the node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    return remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(*arguments)


def disagreements(driver: View, workers: list[View], *, shared_storage: bool) -> list[str]:
    """Return what is wrong, a sentence for each node and problem; empty if all workers fit the driver."""
    sentences: list[str] = []
    for worker in workers:
        for name, expected in driver.versions.items() if worker.versions else ():
            version = worker.versions.get(name, "")
            if not version:
                sentences.append(f"{name} is not installed on {worker.node}")
            elif version != expected:
                sentences.append(f"{name} is {version} on {worker.node} and {expected} on {driver.node}")
        problems = worker.problems + ((worker.storage_problem,) if shared_storage else ())
        sentences += [f"{problem} on {worker.node}" for problem in problems if problem]
    return sentences


def check(driver: View, workers: list[View], *, shared_storage: bool) -> None:
    """Raise ClusterError with everything that is wrong, if anything is."""
    if sentences := disagreements(driver, workers, shared_storage=shared_storage):
        reached = "a Prefect API and storage" if shared_storage else "a Prefect API"
        raise ClusterError(
            "the Ray workers do not fit this run",
            detail="; ".join(sentences),
            remedy=f"Use one image for driver, head and workers, and {reached} that all of them reach",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def api_problem(api_url: str | None) -> str:
    """Return why this process cannot reach the Prefect API; empty if it can."""
    if api_url is None:
        return "no PREFECT_API_URL is set that workers can reach"
    problem = http_problem(f"{api_url}/health")
    return problem and f"the Prefect API {api_url} cannot be reached ({problem})"


def await_api(api_url: str | None) -> None:
    """Wait until this process reaches the Prefect API, or :data:`RESTART_SECONDS` have passed."""
    deadline = time.monotonic() + RESTART_SECONDS
    while api_url is not None and api_problem(api_url) and time.monotonic() < deadline:
        time.sleep(0.5)


def http_problem(url: str) -> str:
    """Return why a GET request to a URL fails; empty if it succeeds, or wants credentials: a server responds then."""
    try:
        response = httpx.get(url, timeout=REQUEST_SECONDS, follow_redirects=True, verify=_certificates())
        if response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return first_line(error)
    return ""


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return httpx's default, once: reading the certificates takes longer than a request on this machine."""
    return httpx.create_ssl_context()


def _storage_problem(token_uri: str | None) -> str:
    """Return why this process cannot use the storage, or that its storage is not the driver's."""
    storage_uri = Settings().storage_uri
    try:
        storage.check_writable(storage_uri)
        if token_uri and not storage.exists(token_uri):
            return f"the storage {storage_uri} is not the driver's"
    except StorageError as error:
        return f"the storage {storage_uri} cannot be written ({error})"
    return ""
