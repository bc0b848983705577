"""A RayCluster manifest, and what a run adds to it. Pure: dictionaries in, dictionaries out.

The manifest is KubeRay's own (``ray.io/v1``) and is used unchanged: pods, resources, tolerations, affinity and
autoscaling are its fields. A run adds an image to Ray containers without one, labels, and an owner.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayworks import storage
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER
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
    clusters = [document for document in documents if _kind(document) == RAYCLUSTER.name]
    if len(clusters) != 1:
        raise ParameterError(
            "one RayCluster is expected",
            where=uri,
            detail=f"it has {len(clusters)}",
            remedy="Name the manifest of one RayCluster",
        )
    check(clusters[0], where=uri)
    return clusters[0]


def read_with_image(uri: str, image: str | None) -> dict[str, Any]:
    """Return the manifest at a URI, as :func:`read` does. Its Ray containers name their images, or get ``image``.

    Raises:
        ParameterError: As :func:`read`, or a Ray container has no image.
    """
    manifest = read(uri)
    if not image and any("image" not in _ray_container(group) for _, group in _groups(manifest)):
        raise ParameterError(
            "a Ray container names no image",
            where=uri,
            remedy="Set RAYWORKS_IMAGE to the image of this run, or name one in the manifest",
        )
    return manifest


def _kind(document: Any) -> Any:
    return document.get("kind") if isinstance(document, dict) else None  # type: ignore[union-attr]


def check(manifest: Mapping[str, Any], *, where: str) -> None:
    """Raise ParameterError for what the API server would accept, but KubeRay could never run."""
    problems: list[str] = []
    if manifest.get("apiVersion") != RAYCLUSTER.api_version:
        problems.append(f"apiVersion is {manifest.get('apiVersion')!r}, not {RAYCLUSTER.api_version!r}")
    if not (manifest.get("metadata") or {}).get("name"):
        problems.append("metadata.name is missing")
    spec = manifest.get("spec") or {}
    if "headGroupSpec" not in spec:
        problems.append("spec.headGroupSpec is missing")
    for path, group in _groups(manifest):
        pod = (group.get("template") or {}).get("spec") or {}
        if not pod.get("containers"):
            problems.append(f"{path}.template.spec.containers is empty")
        elif (restart := pod.get("restartPolicy", "Always")) != "Always" and path == "spec.headGroupSpec":
            problems.append(f"{path} has restartPolicy {restart!r}: a head that exits would not restart")
    if problems:
        raise ParameterError(
            "this RayCluster cannot run", where=where, detail="; ".join(problems), remedy="Correct the manifest"
        )


def images(manifest: Mapping[str, Any]) -> list[str]:
    """Return the images of the Ray containers, each once."""
    return list(dict.fromkeys(_ray_container(group)["image"] for _, group in _groups(manifest)))


def is_on(image: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node has pulled an image. Nodes list only their fifty largest, by their full names."""
    names = [name for entry in node["status"].get("images") or () for name in entry.get("names") or ()]
    return any(name == image or name.endswith(f"/{image}") for name in names)


def digest(manifest: Mapping[str, Any], image: str | None) -> str:
    """Return a text that changes when the manifest's spec or the image does."""
    return hashlib.sha256(repr((manifest.get("spec"), image)).encode()).hexdigest()[:16]


def for_run(manifest: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    """Return a copy of the manifest with what the run adds."""
    cluster = copy.deepcopy(dict(manifest))
    metadata = cluster["metadata"]
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
        if needs.job:
            name, uid = needs.job
            metadata.setdefault("ownerReferences", []).append(
                {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "blockOwnerDeletion": False}
            )
    for _, group in _groups(cluster):
        if needs.image:
            _ray_container(group).setdefault("image", needs.image)
        if needs.flow_run_id and not needs.idle_seconds:
            group["template"].setdefault("metadata", {}).setdefault("labels", {})[FLOW_RUN_LABEL] = needs.flow_run_id
    return cluster


def _groups(manifest: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the head group and the worker groups, each with its path in the manifest."""
    spec = manifest.get("spec") or {}
    workers = [
        (f"spec.workerGroupSpecs[{number}]", group) for number, group in enumerate(spec.get("workerGroupSpecs") or [])
    ]
    return ([("spec.headGroupSpec", spec["headGroupSpec"])] if "headGroupSpec" in spec else []) + workers


def _ray_container(group: Mapping[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]  # KubeRay runs Ray in the first one
