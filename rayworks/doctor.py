"""Checks of an installation: from this process, and from a worker of the Ray cluster that flow runs would use."""

import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rayworks import storage
from rayworks.cluster import _private, preflight, tls
from rayworks.cluster.kubernetes import acquisition, raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError, in_a_pod
from rayworks.cluster.kubernetes.kinds import LEASE, RAYCLUSTER
from rayworks.cluster.kubernetes.objects import Object
from rayworks.errors import RayworksError
from rayworks.prefect_api import server
from rayworks.prefect_api.address import configured_api_url
from rayworks.runner.session import ray_running
from rayworks.settings import Settings

PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (RAYCLUSTER.group, RAYCLUSTER.plural, ("get", "list", "create", "patch", "delete")),
    (LEASE.group, LEASE.plural, ("list", "create", "patch", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
)
"""What a run needs of the Kubernetes API: group, resource, verbs."""
OUTSIDE_PERMISSIONS = (("", "pods", ("get",)), ("", "pods/portforward", ("create",)))
"""What a driver outside of Kubernetes needs as well."""


@dataclass(frozen=True)
class Line:
    """One check and its result."""

    level: Literal["pass", "warn", "fail"]
    check: str
    detail: str


def examine(settings: Settings, *, worker: bool) -> Iterator[Line]:
    """Run one check after the other, and go on after failures as far as possible.

    Args:
        settings: Of the installation.
        worker: Whether to start Ray as a run would, and to check from its workers.
    """
    versions = preflight.versions().items()
    yield Line("pass", "versions", ", ".join(f"{name} {version or 'missing'}" for name, version in versions))
    yield _prefect(configured_api_url())
    yield _line("storage", lambda: _storage(settings))
    yield _line("MLflow", lambda: _mlflow(settings))
    if raycluster_manifest.is_manifest(settings.ray_address):
        yield from _kubernetes(settings)
    if worker:
        yield from _workers(settings)


def _line(check: str, run: Callable[[], str]) -> Line:
    """Return the line of a check that returns what it found, and raises if something is wrong."""
    try:
        return Line("pass", check, run())
    except RayworksError as error:
        return Line("fail", check, str(error))
    except RefusedError as error:
        return Line("fail", check, str(error.explained()))


def _prefect(api_url: str | None) -> Line:
    if server.is_embedded(api_url):
        detail = "none is configured: each run starts its own server. Set PREFECT_API_URL to use a permanent one"
        return Line("warn", "Prefect API", detail)
    if problem := preflight.api_problem(api_url):
        return Line("fail", "Prefect API", f"{problem}. Check PREFECT_API_URL, and that the server runs")
    return Line("pass", "Prefect API", str(api_url))


def _storage(settings: Settings) -> str:
    storage.check_writable(settings.storage_uri)
    return f"{settings.storage_uri} is writable"


def _mlflow(settings: Settings) -> str:
    uri = settings.tracking_uri()
    if uri.startswith("http") and (problem := preflight.http_problem(f"{uri}/health")):
        raise RayworksError(
            "MLflow does not respond", where=uri, detail=problem, remedy="Start the server, or correct the URL"
        )
    return uri


# Kubernetes


def _kubernetes(settings: Settings) -> Iterator[Line]:
    manifest = None
    try:
        manifest = raycluster_manifest.read_with_image(str(settings.ray_address), settings.image)
        yield Line("pass", "manifest", f"{settings.ray_address} describes {manifest['metadata']['name']}")
    except RayworksError as error:
        yield Line("fail", "manifest", str(error))
    try:
        api = KubernetesApi(settings.namespace)
    except RayworksError as error:
        yield Line("fail", "Kubernetes API", str(error))
        return
    yield _line("Kubernetes API", lambda: f"{api.server_version()}, namespace {api.namespace}")
    yield _permissions(api)
    if manifest:
        # The API server checks a dry run as a real request: known kind, permission, schema, webhooks.
        name = f"{manifest['metadata']['name'][: raycluster_manifest.LONGEST_NAME]}-dry-run"
        needs = raycluster_manifest.Needs(name=name, namespace=api.namespace, image=settings.image)
        if raycluster_manifest.uses_tls(manifest):
            yield _line("TLS", functools.partial(_tls, manifest, str(settings.ray_address)))
        if raycluster_manifest.token_secret(manifest) and _private.TOKEN_VARIABLE not in os.environ:
            yield _line("token", functools.partial(_token, api, manifest))
        yield _line("RayCluster dry run", functools.partial(_dry_run, api, manifest, needs))
        for image in raycluster_manifest.images(manifest, settings.image):
            yield _image(api, str(image))


def _permissions(api: KubernetesApi) -> Line:
    needed = PERMISSIONS if in_a_pod() else PERMISSIONS + OUTSIDE_PERMISSIONS
    requests = [(verb, group, resource) for group, resource, verbs in needed for verb in verbs]
    try:
        missing = [f"{verb} {resource}" for verb, group, resource in requests if not api.may(verb, group, resource)]
    except RefusedError as error:
        return Line("fail", "permissions", str(error.explained()))
    if missing:
        detail = f"not allowed: {', '.join(missing)}. Grant them as deployments/kubernetes/base/rbac.yaml does"
        return Line("fail", "permissions", detail)
    return Line("pass", "permissions", f"all that a run needs in {api.namespace}")


def _tls(manifest: Object, manifest_uri: str) -> str:
    acquisition.check_tls(manifest, manifest_uri)
    return f"the certificate {os.environ[tls.CERTIFICATE]} is valid here"


def _token(api: KubernetesApi, manifest: Object) -> str:
    secret = manifest["spec"]["authOptions"].get("secretName", "")  # without it, KubeRay creates one for each cluster
    named = f"Secret {secret}" if secret else "the Secret of each cluster"
    if not api.may("get", "", "secrets", name=secret):
        raise RayworksError(
            "the account may not read the token that the cluster wants",
            where=named,
            remedy="Grant it the verb get on that Secret, or set RAY_AUTH_TOKEN",
        )
    return f"from {named}"


def _dry_run(api: KubernetesApi, manifest: Object, needs: raycluster_manifest.Needs) -> str:
    api.create(RAYCLUSTER, raycluster_manifest.for_run(manifest, needs), dry_run=True)
    return "the API server accepts it"


def _image(api: KubernetesApi, image: str) -> Line:
    try:
        nodes = api.nodes()
    except RefusedError as error:
        return Line("fail", "image", str(error.explained()))
    if count := sum(raycluster_manifest.is_on(image, node) for node in nodes):
        detail = f"{image} is on {count} of {len(nodes)} nodes; the others pull it when they need it"
        return Line("pass", "image", detail)
    reason = "no node reports that it has it" if nodes else "this account may not read nodes"
    return Line("warn", "image", f"{image}: {reason}. It is pulled when Ray starts, as for the worker check")


# Ray


def _workers(settings: Settings) -> Iterator[Line]:
    try:
        with ray_running(settings.ray_address) as session:
            version, place = importlib.metadata.version("ray"), settings.ray_address or "this machine"
            yield Line("pass", "Ray", f"{version} at {place}")
            if nodes := session.start_preflight():
                yield _line("workers", lambda: _check_nodes(nodes))
    except RayworksError as error:
        yield Line("fail", "Ray", str(error))


def _check_nodes(nodes: preflight.Preflight) -> str:
    nodes.check(shared_storage=True)
    return f"on {', '.join(nodes.nodes)}: same versions, Prefect API and storage reached"
