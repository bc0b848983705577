"""Whether driver and workers fit each other. :func:`disagreements` is pure; :func:`look` runs in a worker of each node."""

import importlib.metadata
import os
import platform
import secrets
import urllib.request
from dataclasses import dataclass
from typing import Any, cast

from rayworks import storage
from rayworks.errors import ClusterError, StorageError
from rayworks.settings import Settings

PACKAGES = ("ray", "prefect", "rayworks")
ANSWER_SECONDS = 120
"""How long a worker may take to start, to import Prefect, and to answer the first question."""


@dataclass(frozen=True)
class View:
    """What one process sees: of itself, of the Prefect API and of the storage."""

    node: str
    versions: dict[str, str]
    """Empty where it could not tell."""
    problems: tuple[str, ...] = ()
    """What it cannot reach, each a sentence."""


def look(node: str, api_url: str | None, token: str | None, after: object) -> View:
    """See from a worker.

    Args:
        node: Name of its node.
        api_url: The Prefect API that its tasks will use; by default the one that its environment names.
        token: A file that the driver wrote to its storage.
        after: What another Ray task gave, for which this one waits.
    """
    found = (api_problem(api_url or os.environ.get("PREFECT_API_URL")), _storage_problem(token))
    return View(node, versions(), tuple(problem for problem in found if problem))


def versions() -> dict[str, str]:
    """Of Python and of each package in :data:`PACKAGES`; empty text when it is not installed.

    Of Python without its patch release: what is pickled by one is read by the other.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _version(package) for package in PACKAGES},
    }


class Preflight:
    """Asks a worker on each node of the Ray at hand what it sees, while the driver goes on.

    Args:
        api_url: The Prefect API that tasks will use; None: the workers' own environment names it.
        storage_uri: The driver's storage, which must be theirs; None: they have one of their own.
        after: Reference to a Ray task that ends first: on its node, its process answers then, and gets the first task.
    """

    def __init__(self, api_url: str | None, storage_uri: str | None, after: Any = None) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._token = None
        if storage_uri is not None:
            self._token = storage.join(storage.absolute(storage_uri), f"preflight-{secrets.token_hex(4)}")
            storage.write_bytes(self._token, b"rayworks")
        remote = ray.remote(num_cpus=0, max_retries=0)(look)
        self._nodes = {node_id: node["NodeManagerHostname"] for node_id, node in _alive().items()}
        self._answers = {
            node_id: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
                name, api_url, self._token, after
            )
            for node_id, name in self._nodes.items()
        }

    @property
    def nodes(self) -> list[str]:
        return list(self._nodes.values())

    def check(self) -> None:
        """Raise ClusterError unless every node that is still there has answered, and sees what the driver sees."""
        import ray
        from ray.exceptions import RayError, TaskUnschedulableError

        views: list[View] = []
        try:
            for node_id, answer in self._answers.items():
                try:
                    views.append(ray.get(answer, timeout=ANSWER_SECONDS))
                except TaskUnschedulableError:  # the autoscaler took the idle node away meanwhile
                    continue
                except RayError as error:
                    if node_id in _alive():
                        said = str(error).strip().splitlines()[-1]
                        views.append(View(self._nodes[node_id], {}, (f"a worker could not start ({said})",)))
        finally:
            if self._token is not None:
                storage.delete(self._token)
        check(View("here", versions()), views)


def _alive() -> dict[str, dict[str, Any]]:
    """The nodes of the Ray at hand, by their ids."""
    import ray

    return {node["NodeID"]: node for node in cast(Any, ray.nodes)() if node["Alive"]}


def disagreements(driver: View, workers: list[View]) -> list[str]:
    """What is wrong, one sentence for each node and thing; empty when all is well."""
    found: list[str] = []
    for worker in workers:
        for name, wanted in driver.versions.items() if worker.versions else ():
            seen = worker.versions.get(name, "")
            if not seen:
                found.append(f"{name} is not installed on {worker.node}")
            elif seen != wanted:
                found.append(f"{name} is {seen} on {worker.node} and {wanted} here")
        found += [f"{problem} on {worker.node}" for problem in worker.problems]
    return found


def check(driver: View, workers: list[View]) -> None:
    """Raise ClusterError with all that is wrong, if anything is."""
    if found := disagreements(driver, workers):
        raise ClusterError(
            "the Ray workers do not fit this run",
            detail="; ".join(found),
            remedy="Use one image for driver, head and workers, and a Prefect API and storage that all reach",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def api_problem(api_url: str | None) -> str:
    """Why the Prefect API cannot be reached from this process; empty when it can."""
    if api_url is None:
        return "no PREFECT_API_URL that workers can reach is known"
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=10):
            return ""
    except OSError as error:
        return f"the Prefect API {api_url} cannot be reached ({error})"


def _storage_problem(token: str | None) -> str:
    storage_uri = Settings().storage_uri
    try:
        storage.check_writable(storage_uri)
        if token and not storage.exists(token):
            return f"the storage {storage_uri} is another one than the driver's"
    except StorageError as error:
        return f"the storage {storage_uri} cannot be written ({error})"
    return ""
