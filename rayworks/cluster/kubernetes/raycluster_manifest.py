"""A RayCluster manifest, and what a run adds to it. Pure: dictionaries in, dictionaries out.

The manifest is KubeRay's own (``ray.io/v1``) and is used unchanged: pods, resources, tolerations, affinity and
autoscaling are its fields. A run adds an image to Ray containers without one, labels, an owner, and to a head that no
driver reaches from outside a variable that says so.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rayworks import storage
from rayworks.cluster import tls
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER
from rayworks.cluster.kubernetes.ray_command import WITHOUT_CLIENT_SERVER
from rayworks.cluster.kubernetes.raycluster_shape import shape_problems
from rayworks.errors import ParameterError

MANAGED_BY = {"app.kubernetes.io/managed-by": "rayworks"}
MANAGED_BY_SELECTOR = "app.kubernetes.io/managed-by=rayworks"
FLOW_RUN_LABEL = "rayworks.io/flow-run-id"
IDLE_ANNOTATION = "rayworks.io/idle-seconds"
"""How long a shared cluster may be idle. A cluster without it belongs to one run, and is deleted with the run."""
MANIFEST_ANNOTATION = "rayworks.io/manifest"
"""Digest of the manifest and image of a shared cluster. Only runs with the same digest use it."""
LONGEST_NAME = 40
"""Characters of a cluster's name. KubeRay derives the names of pods and services from it, which may have 63."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""The label by which Kueue admits a cluster that is suspended until then."""
RAY_CONTAINERS = ("ray-head", "ray-worker")
PORTS = {"port": "6379", "ray-client-server-port": "10001", "dashboard-port": "8265"}
"""Where the driver and Ray's workers look for the head, by Ray's parameter. No two heads share a pod."""
DASHBOARD = "include-dashboard"
"""Ray's parameter. A head without a dashboard needs a third less of a processor to start."""


@dataclass(frozen=True)
class Needs:
    """What a run adds to its manifest."""

    name: str
    namespace: str
    image: str | None = None
    flow_run_id: str | None = None
    idle_seconds: float = 0
    """0: the cluster belongs to this run alone."""
    job: tuple[str, str] | None = None
    """Name and UID of the run's Job. Kubernetes deletes the cluster with it."""
    has_driver_in_a_pod: bool = False
    """The driver joins the cluster, and does not need the head's client server."""


def is_manifest(address: str | None) -> bool:
    """Return whether ``RAYWORKS_RAY_ADDRESS`` names a manifest, and not an existing Ray cluster."""
    return bool(address) and str(address).endswith((".yaml", ".yml", ".json"))


def read(uri: str) -> dict[str, Any]:
    """Return the RayCluster manifest at a URI (YAML or JSON).

    Raises:
        StorageError: It cannot be read.
        ParameterError: It is not one RayCluster that KubeRay could create.
    """
    import yaml

    content = storage.read_bytes(uri)
    try:
        documents = [document for document in yaml.safe_load_all(content) if document]
    except yaml.YAMLError as error:
        raise ParameterError(
            "this is not YAML", where=uri, detail=str(error).replace("\n", " "), remedy="Correct it"
        ) from error
    kinds = [str(_kind(document)) for document in documents]
    if kinds != [RAYCLUSTER.name]:
        raise ParameterError(
            "one RayCluster is expected, and nothing else",
            where=uri,
            detail=f"it has {', '.join(kinds) or 'no object'}",
            remedy="Put only the RayCluster into the manifest, and create other objects with kubectl apply",
        )
    manifest = _without_nulls(documents[0])
    check(manifest, where=uri)
    return manifest


def read_with_image(uri: str, image: str | None) -> dict[str, Any]:
    """Return the manifest at a URI, as :func:`read` does. Its Ray containers name their images, or get ``image``.

    Raises:
        ParameterError: As :func:`read`, or a Ray container has no image.
    """
    manifest = read(uri)
    if not image and not all(images(manifest, image)):
        raise ParameterError(
            "a Ray container names no image",
            where=uri,
            remedy="Set RAYWORKS_IMAGE to the image of this run, or name one in the manifest",
        )
    return manifest


def _kind(document: Any) -> Any:
    return document.get("kind") if isinstance(document, dict) else type(document).__name__  # type: ignore[union-attr]


def _without_nulls(value: Any) -> Any:
    """Return a value of YAML without its empty fields: to the API server they are absent."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {name: _without_nulls(field) for name, field in fields.items() if field is not None}
    return [_without_nulls(item) for item in cast(list[Any], value)] if isinstance(value, list) else value


def check(manifest: Mapping[str, Any], *, where: str) -> None:
    """Raise ParameterError for what the API server would accept, but KubeRay could never run."""
    if problems := list(shape_problems(manifest)) or list(_problems(manifest)):
        raise ParameterError(
            "this RayCluster cannot run", where=where, detail="; ".join(problems), remedy="Correct the manifest"
        )


def _problems(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what KubeRay could not run, of a manifest that has the shape of a RayCluster."""
    if manifest.get("apiVersion") != RAYCLUSTER.api_version:
        yield f"apiVersion is {manifest.get('apiVersion')!r}, not {RAYCLUSTER.api_version!r}"
    spec, labels = manifest["spec"], manifest["metadata"].get("labels") or {}
    if spec.get("suspend") and QUEUE_LABEL not in labels:
        yield f"spec.suspend is true, and no label {QUEUE_LABEL} names a queue that would end that"
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth"):
        yield "spec.authOptions.enableK8sTokenAuth is not supported: remove it, mode token alone works"
    if "externalStorageNamespace" in (spec.get("gcsFaultToleranceOptions") or {}):
        yield (
            "spec.gcsFaultToleranceOptions.externalStorageNamespace: remove it, or the clusters of several runs would "
            "share one state"
        )
    if uses_tls(manifest):
        yield from _without_tls(manifest)
    parameters = spec["headGroupSpec"].get("rayStartParams") or {}
    for name, port in PORTS.items():
        if str(parameters.get(name, port)) != port:
            yield f"spec.headGroupSpec.rayStartParams.{name} is {parameters[name]}: remove it, {port} is expected"
    head = _ray_container(spec["headGroupSpec"])
    missing = [probe for probe in ("readinessProbe", "livenessProbe") if probe not in head]
    if missing and not has_dashboard(manifest):
        yield (
            f"spec.headGroupSpec.rayStartParams.{DASHBOARD} is false, and its Ray container has no "
            f"{' and no '.join(missing)}: KubeRay's own asks the dashboard"
        )
    restart = spec["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Always")
    if restart != "Always":
        yield f"spec.headGroupSpec has restartPolicy {restart!r}: a head that exits would not restart"
    for path, group in _groups(manifest):
        for number, container in enumerate(group["template"]["spec"]["containers"][1:], start=1):
            if not container.get("image") or container.get("name") in RAY_CONTAINERS:
                place = f"{path}.template.spec.containers[{number}]"
                what = "is named as Ray's" if container.get("image") else "has no image"
                yield f"{place} {what}: KubeRay runs Ray in the first container, put Ray's there"


def has_dashboard(manifest: Mapping[str, Any]) -> bool:
    """Return whether the head of a RayCluster runs Ray's dashboard."""
    parameters = manifest["spec"]["headGroupSpec"].get("rayStartParams") or {}
    return str(parameters.get(DASHBOARD, "true")).lower() not in ("0", "false", "f", "no", "n", "off")  # click's words


def uses_tls(manifest: Mapping[str, Any]) -> bool:
    """Return whether the manifest sets ``RAY_USE_TLS`` for the head. ``envFrom`` may do so without being seen."""
    return _sets_tls(_ray_container(manifest["spec"]["headGroupSpec"]))


def _without_tls(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what could not reach a head that uses TLS."""
    spec = manifest["spec"]
    for path, group in _groups(manifest):
        if not _sets_tls(_ray_container(group)):
            yield f"{path} does not set {tls.SWITCH}, as the head does: its pods could not reach it"
    if spec.get("enableInTreeAutoscaling") and not _sets_tls(spec.get("autoscalerOptions") or {}):
        yield f"spec.autoscalerOptions.env does not set {tls.SWITCH}, as the head does: no worker would be added"


def _sets_tls(container: Mapping[str, Any]) -> bool:
    return tls.is_on({str(variable.get("name")): str(variable.get("value")) for variable in container.get("env") or ()})


def images(manifest: Mapping[str, Any], image: str | None) -> list[str | None]:
    """Return the images of the Ray containers, each once; ``image`` for those that name none."""
    return list(dict.fromkeys(_ray_container(group).get("image") or image for _, group in _groups(manifest)))


def token_secret(cluster: Mapping[str, Any]) -> str | None:
    """Return the Secret with the token that a RayCluster wants of its clients; None if it wants none.

    KubeRay creates one of the cluster's name, unless the manifest names another one. Its key is ``auth_token``.
    """
    options = cluster["spec"].get("authOptions") or {}
    return options.get("secretName") or cluster["metadata"]["name"] if options.get("mode") == "token" else None


def is_on(image: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node has pulled an image. Nodes list only their fifty largest, by their full names."""
    names = [name for entry in node["status"].get("images") or () for name in entry.get("names") or ()]
    return any(name == image or name.endswith(f"/{image}") for name in names)


def digest(manifest: Mapping[str, Any], image: str | None) -> str:
    """Return a text that changes when the manifest's spec or the image does."""
    return hashlib.sha256(repr((manifest.get("spec"), image)).encode()).hexdigest()[:16]


def for_run(manifest: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    """Return a copy of the manifest with what the run adds.

    Raises:
        ParameterError: The manifest names another namespace.
    """
    cluster = copy.deepcopy(dict(manifest))
    metadata = cluster["metadata"]
    if metadata.get("namespace", needs.namespace) != needs.namespace:
        raise ParameterError(
            "the manifest names another namespace than the run uses",
            where=metadata["name"],
            detail=f"metadata.namespace is {metadata['namespace']}, not {needs.namespace}",
            remedy="Remove it from the manifest, or set RAYWORKS_NAMESPACE to it",
        )
    metadata.update(name=needs.name, namespace=needs.namespace)
    labels = metadata.setdefault("labels", {})
    labels.update(MANAGED_BY)
    if needs.idle_seconds:
        metadata.setdefault("annotations", {}).update(
            {IDLE_ANNOTATION: f"{needs.idle_seconds:g}", MANIFEST_ANNOTATION: digest(manifest, needs.image)}
        )
    else:
        if needs.flow_run_id:
            labels[FLOW_RUN_LABEL] = needs.flow_run_id
        if needs.has_driver_in_a_pod:
            _remove_client_server(cluster["spec"]["headGroupSpec"])
        if needs.job:
            name, uid = needs.job
            metadata.setdefault("ownerReferences", []).append(
                {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "blockOwnerDeletion": False}
            )
    for _, group in _groups(cluster):
        if needs.image and not _ray_container(group).get("image"):
            _ray_container(group)["image"] = needs.image
        if needs.flow_run_id and not needs.idle_seconds:
            group["template"].setdefault("metadata", {}).setdefault("labels", {})[FLOW_RUN_LABEL] = needs.flow_run_id
    return cluster


def _remove_client_server(head: dict[str, Any]) -> None:
    """Let the head start none, unless the manifest wants one. Ray has no parameter for it, only for the port."""
    if "ray-client-server-port" not in (head.get("rayStartParams") or {}):
        _ray_container(head).setdefault("env", []).append({"name": WITHOUT_CLIENT_SERVER, "value": "1"})


def _groups(manifest: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the head group and the worker groups, each with its path in the manifest."""
    spec = manifest["spec"]
    workers = enumerate(spec.get("workerGroupSpecs") or [])
    return [
        ("spec.headGroupSpec", spec["headGroupSpec"]),
        *((f"spec.workerGroupSpecs[{number}]", group) for number, group in workers),
    ]


def _ray_container(group: Mapping[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]  # KubeRay runs Ray in the first one
