"""Whether an installation can run flows: checks from this process, and from a worker of the Ray that runs would use."""

import importlib.metadata
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rayworks import storage
from rayworks.cluster import places, preflight
from rayworks.cluster.kubernetes import diagnosis, raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError, in_a_pod
from rayworks.errors import RayworksError
from rayworks.prefect_api import server
from rayworks.settings import Settings

PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ray.io", "rayclusters", ("get", "list", "create", "patch", "delete")),
    ("coordination.k8s.io", "leases", ("list", "create", "patch", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
)
"""What a run asks of the Kubernetes API: group, resource, verbs."""
OUTSIDE_PERMISSIONS = (("", "pods/portforward", ("create",)),)
"""And a driver outside of Kubernetes besides."""


@dataclass(frozen=True)
class Line:
    """One check and what came of it."""

    level: Literal["pass", "warn", "fail"]
    check: str
    detail: str


def examine(settings: Settings, *, api_url: str | None, worker: bool, environment: dict[str, str]) -> Iterator[Line]:
    """Check one thing after the other; later checks go on where earlier ones failed, as far as they can.

    Args:
        settings: Of the installation.
        api_url: The Prefect API that runs would use.
        worker: Whether to start Ray, as a run would, and to look from its workers.
        environment: What Ray's workers are told.
    """
    versions = preflight.versions()
    yield Line(
        "pass", "versions here", ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    )
    yield _prefect(api_url)
    yield _outcome("storage, from here", lambda: _storage(settings))
    yield _outcome("MLflow, from here", lambda: _mlflow(settings))
    if raycluster_manifest.is_manifest(settings.ray_address):
        yield from _kubernetes(settings)
    if worker:
        yield from _workers(settings, api_url, environment)


def _outcome(check: str, ask: Callable[[], str]) -> Line:
    try:
        return Line("pass", check, ask())
    except RayworksError as error:
        return Line("fail", check, str(error))
    except RefusedError as error:
        return Line("fail", check, str(diagnosis.refusal(error.status, error.body, error.what)))


def _prefect(api_url: str | None) -> Line:
    if server.is_embedded(api_url):
        said = "none is configured: each run starts one of its own. Set PREFECT_API_URL to keep one"
        return Line("warn", "Prefect API, from here", said)
    if problem := preflight.api_problem(api_url):
        return Line("fail", "Prefect API, from here", f"{problem}. Check PREFECT_API_URL, and that the server runs")
    return Line("pass", "Prefect API, from here", str(api_url))


def _storage(settings: Settings) -> str:
    storage.check_writable(settings.storage_uri)
    return f"{settings.storage_uri} can be written"


def _mlflow(settings: Settings) -> str:
    uri = settings.tracking_uri()
    if uri.startswith("http"):
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=10):
                pass
        except OSError as error:
            raise RayworksError(
                "it does not answer", where=uri, detail=str(error), remedy="Start it, or correct the URL"
            ) from error
    return uri


def _kubernetes(settings: Settings) -> Iterator[Line]:
    manifest: dict[str, Any] = {}

    def read() -> str:
        manifest.update(raycluster_manifest.read(str(settings.ray_address)))
        if raycluster_manifest.lacks_image(manifest) and not settings.image:
            raise RayworksError(
                "a Ray container names no image", where=str(settings.ray_address), remedy="Set RAYWORKS_IMAGE"
            )
        return f"{settings.ray_address} describes {manifest['metadata']['name']}"

    yield _outcome("manifest", read)
    try:
        api = KubernetesApi(settings.namespace)
    except RayworksError as error:
        yield Line("fail", "Kubernetes API", str(error))
        return
    yield _outcome("Kubernetes API", lambda: f"{api.server_version()}, namespace {api.namespace}")
    yield _permissions(api)
    if manifest:
        # A dry run passes what the API server itself would say: no such kind, forbidden, invalid, refused by a webhook.
        name = f"{manifest['metadata']['name'][: raycluster_manifest.LONGEST_NAME]}-dry-run"
        made = raycluster_manifest.for_run(
            manifest, raycluster_manifest.Needs(name=name, namespace=api.namespace, image=settings.image)
        )
        yield _outcome("RayCluster would be taken", lambda: _dry_run(api, made))
        for image in raycluster_manifest.images(made):
            yield _image(api, image)


def _dry_run(api: KubernetesApi, made: dict[str, Any]) -> str:
    api.create_cluster(made, dry_run=True)
    return "the API server accepts it"


def _image(api: KubernetesApi, image: str) -> Line:
    try:
        nodes = api.nodes()
    except RefusedError as error:
        return Line("fail", "image", str(diagnosis.refusal(error.status, error.body, error.what)))
    if count := sum(raycluster_manifest.is_on(image, node) for node in nodes):
        return Line(
            "pass", "image", f"{image} is on {count} of {len(nodes)} nodes; the others pull it when they need it"
        )
    said = "no node tells that it has it" if nodes else "this account may not look at the nodes"
    return Line("warn", "image", f"{image}: {said}. It is pulled when Ray starts, which the checks of a worker do")


def _permissions(api: KubernetesApi) -> Line:
    wanted = PERMISSIONS if in_a_pod() else PERMISSIONS + OUTSIDE_PERMISSIONS
    try:
        asked = [(verb, group, resource) for group, resource, verbs in wanted for verb in verbs]
        missing = [f"{verb} {resource}" for verb, group, resource in asked if not api.may(verb, group, resource)]
    except RefusedError as error:
        return Line("fail", "permissions", str(diagnosis.refusal(error.status, error.body, error.what)))
    if missing:
        said = f"not allowed: {', '.join(missing)}. Grant them as deployments/kubernetes/rbac.yaml does"
        return Line("fail", "permissions", said)
    return Line("pass", "permissions", f"all that a run needs in {api.namespace}")


def _workers(settings: Settings, api_url: str | None, environment: dict[str, str]) -> Iterator[Line]:
    cluster = places.cluster_of(settings)
    places.prepare()
    try:
        cluster.acquire(environment, {})
    except RayworksError as error:
        yield Line("fail", "Ray", str(error))
        return
    try:
        asked = (
            preflight.Preflight(None, None)
            if cluster.is_elsewhere
            else preflight.Preflight(api_url, settings.storage_uri)
        )
        yield Line("pass", "Ray", f"{importlib.metadata.version('ray')} at {settings.ray_address or 'this machine'}")
        yield _outcome("workers", lambda: _agree(asked))
    except RayworksError as error:
        yield Line("fail", "workers", str(error))
    finally:
        cluster.release()


def _agree(asked: preflight.Preflight) -> str:
    asked.check()
    return f"on {', '.join(asked.nodes)}: same versions, Prefect API and storage reached"
