"""A RayCluster manifest, and what a run adds to it. Pure: dictionaries in, dictionaries out.

The manifest is KubeRay's own (``ray.io/v1``) and is taken as it stands: pods, resources, tolerations, affinity and
autoscaling are its fields. A run adds the image where a Ray container has none, labels, and whom it belongs to.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayworks import storage
from rayworks.errors import ParameterError

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayclusters"
MANAGED_BY = {"app.kubernetes.io/managed-by": "rayworks"}
MANAGED_BY_SELECTOR = "app.kubernetes.io/managed-by=rayworks"
FLOW_RUN_LABEL = "rayworks.io/flow-run-id"
IDLE_ANNOTATION = "rayworks.io/idle-seconds"
"""How long a shared cluster may be without a run. A cluster without it belongs to one run, and goes when that is gone."""
MANIFEST_ANNOTATION = "rayworks.io/manifest"
"""Digest of what a shared cluster was made from: another one does not serve a run that asks for this."""
LONGEST_NAME = 40
"""KubeRay derives names of pods and services from it, which end at 63 characters."""


@dataclass(frozen=True)
class Needs:
    """What a run adds to its manifest."""

    name: str
    namespace: str
    image: str | None = None
    flow_run_id: str | None = None
    idle_seconds: float = 0
    """0: for this run alone."""
    job: tuple[str, str] | None = None
    """Name and UID of the Job that the run is, which Kubernetes ends the cluster with."""


def is_manifest(address: str | None) -> bool:
    """Whether ``RAYWORKS_RAY_ADDRESS`` names a manifest, and not a Ray that runs."""
    return bool(address) and str(address).endswith((".yaml", ".yml", ".json"))


def read(uri: str) -> dict[str, Any]:
    """The RayCluster manifest at ``uri`` (YAML or JSON).

    Raises:
        StorageError: It cannot be read.
        ParameterError: It is not one RayCluster that KubeRay could bring up.
    """
    import yaml

    content = storage.read_bytes(uri)
    try:
        documents = [document for document in yaml.safe_load_all(content) if document]
    except yaml.YAMLError as error:
        raise ParameterError(
            "this is not YAML", where=uri, detail=str(error).replace("\n", " "), remedy="Correct it"
        ) from error
    found = [document for document in documents if isinstance(document, dict) and document.get("kind") == "RayCluster"]  # type: ignore[union-attr]
    if len(found) != 1:
        raise ParameterError(
            "one RayCluster is expected",
            where=uri,
            detail=f"it holds {len(found)}",
            remedy="Give the manifest of one RayCluster",
        )
    check(found[0], where=uri)
    return found[0]


def check(manifest: Mapping[str, Any], *, where: str) -> None:
    """Raise ParameterError for what the API server would take and KubeRay could never bring up."""
    problems: list[str] = []
    if manifest.get("apiVersion") != f"{GROUP}/{VERSION}":
        problems.append(f"apiVersion is {manifest.get('apiVersion')!r}, not '{GROUP}/{VERSION}'")
    if not (manifest.get("metadata") or {}).get("name"):
        problems.append("metadata.name is missing")
    spec = manifest.get("spec") or {}
    if "headGroupSpec" not in spec:
        problems.append("spec.headGroupSpec is missing")
    for place, group in _groups(manifest):
        pod = (group.get("template") or {}).get("spec") or {}
        if not pod.get("containers"):
            problems.append(f"{place}.template.spec.containers is empty")
        elif (restart := pod.get("restartPolicy", "Always")) != "Always" and place == "spec.headGroupSpec":
            problems.append(f"{place} has restartPolicy {restart!r}: a head that ends would stay ended")
    if problems:
        raise ParameterError(
            "this RayCluster cannot come up", where=where, detail="; ".join(problems), remedy="Correct the manifest"
        )


def lacks_image(manifest: Mapping[str, Any]) -> bool:
    """Whether a Ray container names no image, so that the run must add its own."""
    return any("image" not in _ray_container(group) for _, group in _groups(manifest))


def images(manifest: Mapping[str, Any]) -> list[str]:
    """The images of the Ray containers, each once."""
    return list(dict.fromkeys(_ray_container(group)["image"] for _, group in _groups(manifest)))


def is_on(image: str, node: Mapping[str, Any]) -> bool:
    """Whether a node has pulled an image; nodes tell of the fifty largest they have, by their full names."""
    names = [name for one in node["status"].get("images") or () for name in one.get("names") or ()]
    return any(name == image or name.endswith(f"/{image}") for name in names)


def digest(manifest: Mapping[str, Any], image: str | None) -> str:
    """Text that changes when a cluster of this manifest would."""
    return hashlib.sha256(repr((manifest.get("spec"), image)).encode()).hexdigest()[:16]


def for_run(manifest: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    """The manifest with what the run needs; the one given stays as it is."""
    made = copy.deepcopy(dict(manifest))
    metadata = made["metadata"]
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
    for _, group in _groups(made):
        if needs.image:
            _ray_container(group).setdefault("image", needs.image)
        if needs.flow_run_id and not needs.idle_seconds:
            group["template"].setdefault("metadata", {}).setdefault("labels", {})[FLOW_RUN_LABEL] = needs.flow_run_id
    return made


def _groups(manifest: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    spec = manifest.get("spec") or {}
    workers = [
        (f"spec.workerGroupSpecs[{number}]", group) for number, group in enumerate(spec.get("workerGroupSpecs") or [])
    ]
    return ([("spec.headGroupSpec", spec["headGroupSpec"])] if "headGroupSpec" in spec else []) + workers


def _ray_container(group: Mapping[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]  # KubeRay takes the first one for Ray
