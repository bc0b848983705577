"""Objects of any kind by the Kubernetes client, and snapshots as the diagnosis reads them."""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from rayworks.cluster.kubernetes.finding import Snapshot
from tests.cluster.raycluster_manifests import Objects

STATUSES = Path(__file__).parents[1] / "unit/statuses"
"""Recorded statuses, for ``tests/unit/test_diagnosis.py``."""


class KubernetesObjects:
    """Creates, reads and deletes objects with the current kubeconfig."""

    def __init__(self) -> None:
        import kubernetes

        kubernetes.config.load_kube_config()
        self.client = kubernetes.client.ApiClient()
        self.core = kubernetes.client.CoreV1Api(self.client)
        self._dynamic = kubernetes.dynamic.DynamicClient(self.client)

    def create(self, objects: Objects) -> None:
        for manifest in objects:
            namespace = manifest["metadata"].get("namespace")
            self._resource(manifest).create(body=manifest, namespace=namespace)

    def create_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.core.create_namespace({"metadata": {"name": name, "labels": labels or {}}})

    def refuses_pods(self, namespace: str) -> bool:
        """Return whether a policy or a webhook for pods is in force: the API server needs a moment for it."""
        from kubernetes.client import ApiException

        pod = {"metadata": {"name": "refused"}, "spec": {"containers": [{"name": "refused", "image": "refused"}]}}
        try:
            self.core.create_namespaced_pod(namespace, pod, dry_run="All")
        except ApiException as error:
            return error.status in (422, 500)  # by a policy, and by a webhook that does not respond
        return False

    def delete_cluster_wide(self, objects: Objects) -> None:
        """Delete those that are in no namespace, and still there; the others are deleted with theirs."""
        from kubernetes.dynamic.exceptions import NotFoundError

        for manifest in objects:
            if "namespace" not in manifest["metadata"]:
                background = {"propagationPolicy": "Background"}
                with contextlib.suppress(NotFoundError):
                    self._resource(manifest).delete(name=manifest["metadata"]["name"], body=background)

    def delete_namespace(self, name: str) -> None:
        self.core.delete_namespace(name)

    def _resource(self, manifest: dict[str, Any]) -> Any:
        return self._dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])

    def snapshot(self, namespace: str) -> Snapshot:
        """Return what the diagnosis reads of the RayCluster ``ray`` in a namespace."""
        return self.snapshots([namespace])[namespace]

    def snapshots(self, namespaces: Iterable[str]) -> dict[str, Snapshot]:
        """Return what the diagnosis reads of the RayCluster ``ray`` in each namespace, by four requests for all.

        Raises:
            KeyError: A namespace has none.
        """
        from kubernetes.client import CustomObjectsApi

        def items(listing: Any, *arguments: str, **options: str) -> tuple[Any, ...]:
            """As JSON: to make the client's objects of it takes longer than all else, and this is polled."""
            return tuple(json.loads(listing(*arguments, **options, _preload_content=False).data)["items"])

        def by_namespace(listed: tuple[Any, ...]) -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = defaultdict(list)
            for one in listed:
                found[one["metadata"]["namespace"]].append(one)
            return found

        all_clusters = CustomObjectsApi(self.client).list_cluster_custom_object
        clusters = by_namespace(items(all_clusters, "ray.io", "v1", "rayclusters", field_selector="metadata.name=ray"))
        pods = by_namespace(items(self.core.list_pod_for_all_namespaces, label_selector="ray.io/cluster=ray"))
        events = by_namespace(items(self.core.list_event_for_all_namespaces))
        nodes = items(self.core.list_node)
        return {name: Snapshot(clusters[name][0], tuple(pods[name]), tuple(events[name]), nodes) for name in namespaces}


def record_snapshot(name: str, snapshot: Snapshot, now: datetime) -> None:
    """Record what the diagnosis may ever read of a snapshot, where ``RAYWORKS_RECORD_STATUSES`` is set."""
    dropped = {"managedFields", "volumeMounts", "images", "annotations", "env", "ports", "securityContext", "imageID"}
    dropped.add("containerID")

    def trimmed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: trimmed(child) for key, child in value.items() if key not in dropped}
        return [trimmed(child) for child in value] if isinstance(value, list | tuple) else value

    recording = {"now": now.isoformat(), "cluster": snapshot.owner, "pods": snapshot.pods, "events": snapshot.events}
    recording["nodes"] = [
        {"metadata": {"name": node["metadata"]["name"], "labels": node["metadata"]["labels"]}, "spec": node["spec"]}
        for node in snapshot.nodes
    ]
    record(name, trimmed(recording))


def record(name: str, content: Any) -> None:
    """Record a status, where ``RAYWORKS_RECORD_STATUSES`` is set."""
    if os.environ.get("RAYWORKS_RECORD_STATUSES"):
        (STATUSES / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
