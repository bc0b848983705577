"""What rayworks asks of the Kubernetes API, in one namespace. Objects are the API's own JSON, as dictionaries.

The only module that knows the Kubernetes client.
"""

import contextlib
import json
import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.errors import ClusterError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = (5, 30)
"""Seconds to connect, and to answer."""
LOG_TIMEOUT = (5, 10)
"""For a pod's log, which its node has to answer."""


def in_a_pod() -> bool:
    """Whether this process runs in a pod that may ask the API."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()


class RefusedError(Exception):
    """The API did not do what it was asked."""

    def __init__(self, status: int, body: dict[str, Any], what: str) -> None:
        super().__init__(f"{status} {body.get('message') or body.get('reason') or ''}".strip())
        self.status, self.body, self.what = status, body, what


class KubernetesApi:
    """The API server that this pod, or the current context of the kubeconfig, belongs to.

    Args:
        namespace: By default the pod's own, or that of the context.

    Raises:
        ClusterError: There is neither.
    """

    def __init__(self, namespace: str | None = None) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise ClusterError(
                "a RayCluster needs the Kubernetes client", detail=str(error), remedy="Install rayworks[kubernetes]"
            ) from error
        configuration = client.Configuration()
        try:
            if in_a_pod():
                config.load_incluster_config(client_configuration=configuration)
                own = (SERVICE_ACCOUNT / "namespace").read_text().strip()
            else:
                config.load_kube_config(client_configuration=configuration)
                own = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            raise ClusterError(
                "no Kubernetes is known here",
                detail=str(error),
                remedy="Set KUBECONFIG, or check that `kubectl get pods` works",
            ) from error
        configuration.retries = False  # type: ignore[assignment]  # each caller knows how long it can wait
        self.namespace = namespace or own
        # Any: the client's types name its own classes, where its methods take dictionaries as well.
        self._client: Any = client.ApiClient(configuration)
        self._custom: Any = client.CustomObjectsApi(self._client)
        self._core: Any = client.CoreV1Api(self._client)
        self._leases: Any = client.CoordinationV1Api(self._client)
        self._version: Any = client.VersionApi(self._client)
        self._authorization: Any = client.AuthorizationV1Api(self._client)

    def _plain(self, answer: Any) -> Any:
        return self._client.sanitize_for_serialization(answer)

    def server_version(self) -> str:
        with _asking("ask for the version"):
            return str(self._plain(self._version.get_code(_request_timeout=TIMEOUT))["gitVersion"])

    # RayClusters

    def create_cluster(self, manifest: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        with _asking(f"create RayCluster {self.namespace}/{manifest['metadata']['name']}"):
            return self._custom.create_namespaced_custom_object(
                *self._clusters(), manifest, _request_timeout=TIMEOUT, **({"dry_run": "All"} if dry_run else {})
            )

    def cluster(self, name: str) -> dict[str, Any] | None:
        """The RayCluster, or None when there is none."""
        try:
            with _asking(f"read RayCluster {self.namespace}/{name}"):
                return self._custom.get_namespaced_custom_object(*self._clusters(), name, _request_timeout=TIMEOUT)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def clusters(self) -> list[dict[str, Any]]:
        """The RayClusters that rayworks made."""
        with _asking(f"list RayClusters in {self.namespace}"):
            return self._custom.list_namespaced_custom_object(
                *self._clusters(), label_selector=raycluster_manifest.MANAGED_BY_SELECTOR, _request_timeout=TIMEOUT
            )["items"]

    def annotate_cluster(self, name: str, annotations: dict[str, str]) -> dict[str, Any] | None:
        """The RayCluster with ``annotations`` set, or None when there is none."""
        try:
            with _asking(f"annotate RayCluster {self.namespace}/{name}"):
                patch = {"metadata": {"annotations": annotations}}
                return self._custom.patch_namespaced_custom_object(
                    *self._clusters(), name, patch, _request_timeout=TIMEOUT
                )
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def delete_cluster(self, name: str, *, uid: str, resource_version: str | None = None) -> bool:
        """Delete this very RayCluster, with its pods; False when it is gone, or has changed since ``resource_version``."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            with _asking(f"delete RayCluster {self.namespace}/{name}"):
                self._custom.delete_namespaced_custom_object(
                    *self._clusters(), name, body=body, _request_timeout=TIMEOUT
                )
        except RefusedError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    def _clusters(self) -> tuple[str, str, str, str]:
        return raycluster_manifest.GROUP, raycluster_manifest.VERSION, self.namespace, raycluster_manifest.PLURAL

    # What there is to see of a cluster

    def pods(self, cluster: str) -> list[dict[str, Any]]:
        with _asking(f"list pods in {self.namespace}"):
            answer = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"ray.io/cluster={cluster}", _request_timeout=TIMEOUT
            )
            return self._plain(answer)["items"]

    def events(self) -> list[dict[str, Any]]:
        """Events of the namespace."""
        with _asking(f"list events in {self.namespace}"):
            return self._plain(self._core.list_namespaced_event(self.namespace, _request_timeout=TIMEOUT))["items"]

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes; none where this identity may not read them, which a role within a namespace cannot grant."""
        try:
            with _asking("list nodes"):
                return self._plain(self._core.list_node(_request_timeout=TIMEOUT))["items"]
        except RefusedError as error:
            if error.status == 403:
                return []
            raise

    def pod_log(self, pod: str, container: str, *, lines: int, previous: bool = False) -> str:
        """The last ``lines`` of a container's output."""
        with _asking(f"read the log of Pod {self.namespace}/{pod}"):
            return self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                previous=previous,
                _request_timeout=LOG_TIMEOUT,
            )

    # Leases

    def renew_lease(
        self, name: str, *, holder: str, seconds: int, labels: dict[str, str], owner: dict[str, Any]
    ) -> None:
        """Hold a Lease from now on for ``seconds``; it is made if it is not there."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now}
        try:
            with _asking(f"renew Lease {self.namespace}/{name}"):
                self._leases.patch_namespaced_lease(name, self.namespace, {"spec": spec}, _request_timeout=TIMEOUT)
                return
        except RefusedError as error:
            if error.status != 404:
                raise
        body = {
            "metadata": {
                "name": name,
                "labels": {**raycluster_manifest.MANAGED_BY, **labels},
                "ownerReferences": [_owner(owner)],
            },
            "spec": {**spec, "acquireTime": now},
        }
        with _asking(f"create Lease {self.namespace}/{name}"):
            self._leases.create_namespaced_lease(self.namespace, body, _request_timeout=TIMEOUT)

    def leases(self, label: str = "") -> list[dict[str, Any]]:
        """The Leases that rayworks made."""
        selector = raycluster_manifest.MANAGED_BY_SELECTOR + (f",{label}" if label else "")
        with _asking(f"list Leases in {self.namespace}"):
            return self._plain(
                self._leases.list_namespaced_lease(self.namespace, label_selector=selector, _request_timeout=TIMEOUT)
            )["items"]

    def delete_lease(self, name: str) -> None:
        try:
            with _asking(f"delete Lease {self.namespace}/{name}"):
                self._leases.delete_namespaced_lease(name, self.namespace, _request_timeout=TIMEOUT)
        except RefusedError as error:
            if error.status != 404:
                raise

    # Permissions

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this identity may do it in the namespace."""
        resource, _, sub = resource.partition("/")
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": sub,
        }
        with _asking("ask what is allowed"):
            review = self._authorization.create_self_subject_access_review(
                {"spec": {"resourceAttributes": attributes}}, _request_timeout=TIMEOUT
            )
            return bool(self._plain(review)["status"]["allowed"])


def _owner(owner: dict[str, Any]) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}


@contextlib.contextmanager
def _asking(what: str) -> Generator[None]:
    """Raise RefusedError for whatever the API, or the way to it, says instead of an answer. Status 0: it does not answer."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        try:
            body = json.loads(error.body or "{}")
        except ValueError:
            body = {"message": str(error.body)}
        raise RefusedError(
            error.status or 0, body if isinstance(body, dict) else {"message": str(body)}, what
        ) from error
    except (HTTPError, OSError) as error:
        raise RefusedError(0, {"message": str(error)}, what) from error
