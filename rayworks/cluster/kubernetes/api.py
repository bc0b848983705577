"""The requests that rayworks makes to the Kubernetes API, in one namespace.

This is the only module that knows the Kubernetes client. Objects are the API's own JSON, as dictionaries. The same
methods create, read, change and delete objects of each kind in :mod:`.kinds`; pods, events, nodes and Secrets are only
read.
"""

import base64
import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from rayworks.cluster.kubernetes import diagnosis
from rayworks.cluster.kubernetes.kinds import Kind
from rayworks.cluster.kubernetes.objects import Object
from rayworks.errors import ClusterError, MissingExtraError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = (5, 30)
"""Seconds to connect, and to wait for the response."""
LOG_TIMEOUT = (5, 10)
"""The same for a pod's log, which comes from the pod's node."""


def in_a_pod() -> bool:
    """Return whether this process runs in a pod whose service account may use the API."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()


class RefusedError(Exception):
    """The API server refused a request, or did not respond.

    Args:
        status: HTTP status of the response; 0 if there was none.
        body: The API's Status object.
        kind: The kind of object that the request was about.
        request: The request in words: ``create RayCluster namespace/name``.
    """

    def __init__(self, status: int, body: Object, kind: str, request: str) -> None:
        super().__init__(f"{status} {body.get('message') or body.get('reason') or ''}".strip())
        self.status, self.body, self.kind, self.request = status, body, kind, request

    @property
    def may_pass(self) -> bool:
        """Whether the API server may accept the same request later: it is away, fails, or has too many requests."""
        return self.status in (0, 429) or self.status >= 500

    def explained(self) -> ClusterError:
        """Return the failure for the user: what is wrong, and what to do."""
        return diagnosis.refusal(self.status, self.body, self.request, kind=self.kind)


class NotFoundError(RefusedError):
    """The object does not exist."""


class ConflictError(RefusedError):
    """The object already exists, or is not the one that the request expects."""


class KubernetesApi:
    """The API server of this pod, or of the current context of the kubeconfig.

    Args:
        namespace: By default the pod's own, or that of the context.

    Raises:
        ClusterError: There is neither.
        MissingExtraError: The Kubernetes client is not installed.
    """

    def __init__(self, namespace: str | None = None) -> None:
        try:
            from kubernetes import client
        except ImportError as error:
            raise MissingExtraError(
                "a RayCluster needs the Kubernetes client",
                detail=str(error),
                remedy="Run: pip install 'rayworks[kubernetes]'",
            ) from error
        configuration = client.Configuration()
        default_namespace = _load(configuration)
        configuration.retries = False  # type: ignore[assignment]  # each caller knows how long it can wait
        self.namespace = namespace or default_namespace
        # Any: the client's types are its own classes, but its methods also take dictionaries.
        self._client: Any = client.ApiClient(configuration)
        self._custom: Any = client.CustomObjectsApi(self._client)
        self._core: Any = client.CoreV1Api(self._client)
        self._version: Any = client.VersionApi(self._client)
        self._authorization: Any = client.AuthorizationV1Api(self._client)

    # Objects of any kind. The client's methods for custom objects work for every API group.

    def create(self, kind: Kind, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object, and return it.

        Args:
            kind: Its kind.
            manifest: With ``metadata.name``.
            dry_run: Only check whether the API server would accept it.
        """
        options = {"dry_run": "All"} if dry_run else {}
        with self._request("create", kind, manifest["metadata"]["name"]):
            return self._custom.create_namespaced_custom_object(
                *self._path(kind), manifest, _request_timeout=TIMEOUT, **options
            )

    def get(self, kind: Kind, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        with contextlib.suppress(NotFoundError), self._request("read", kind, name):
            return self._custom.get_namespaced_custom_object(*self._path(kind), name, _request_timeout=TIMEOUT)
        return None

    def list_objects(self, kind: Kind, *, labels: str) -> list[Object]:
        """Return the objects of a kind that a label selector matches."""
        with _request(f"list {kind.name}s in {self.namespace}", kind.name):
            return self._custom.list_namespaced_custom_object(
                *self._path(kind), label_selector=labels, _request_timeout=TIMEOUT
            )["items"]

    def patch(self, kind: Kind, name: str, patch: Object) -> Object | None:
        """Merge ``patch`` into an object, and return the object; None if it does not exist."""
        with contextlib.suppress(NotFoundError), self._request("change", kind, name):
            return self._custom.patch_namespaced_custom_object(*self._path(kind), name, patch, _request_timeout=TIMEOUT)
        return None

    def annotate(self, kind: Kind, name: str, annotations: dict[str, str]) -> Object | None:
        """Set annotations of an object, and return the object; None if it does not exist."""
        return self.patch(kind, name, {"metadata": {"annotations": annotations}})

    def delete(self, kind: Kind, name: str, *, uid: str | None = None, resource_version: str | None = None) -> bool:
        """Delete an object, and in the background what it owns.

        Args:
            kind: Its kind.
            name: Its name.
            uid: Only the object with this UID, not another one of the same name.
            resource_version: Only if it has not changed since this version.

        Returns:
            False if there is no such object, or not this one.
        """
        conditions = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {field: value for field, value in conditions.items() if value is not None}
        body = {"propagationPolicy": "Background", "preconditions": preconditions}
        with contextlib.suppress(NotFoundError, ConflictError), self._request("delete", kind, name):
            self._custom.delete_namespaced_custom_object(*self._path(kind), name, body=body, _request_timeout=TIMEOUT)
            return True
        return False

    def _path(self, kind: Kind) -> tuple[str, str, str, str]:
        return kind.group, kind.version, self.namespace, kind.plural

    def _request(self, verb: str, kind: Kind, name: str) -> contextlib.AbstractContextManager[None]:
        return _request(f"{verb} {kind.name} {self.namespace}/{name}", kind.name)

    # Pods, events, nodes and Secrets

    def secret_value(self, name: str, key: str) -> str:
        """Return the value of a key of a Secret.

        Raises:
            ClusterError: It has no such key.
        """
        with _request(f"read Secret {self.namespace}/{name}", "Secret"):
            data: dict[str, str] = (
                self._core.read_namespaced_secret(name, self.namespace, _request_timeout=TIMEOUT).data or {}
            )
        if key not in data:
            raise ClusterError(
                f"the Secret has no key {key}",
                where=f"{self.namespace}/{name}",
                remedy="Name another Secret, or add the key",
            )
        return base64.b64decode(data[key]).decode()

    def pods(self, *, labels: str) -> list[Object]:
        """Return the pods that a label selector matches."""
        with _request(f"list pods in {self.namespace}", "Pod"):
            return self._items(
                self._core.list_namespaced_pod(self.namespace, label_selector=labels, _request_timeout=TIMEOUT)
            )

    def pod_log(self, pod: str, container: str, *, lines: int, previous: bool = False) -> str:
        """Return the last lines of a container's output.

        Args:
            pod: Name of the pod.
            container: Name of the container.
            lines: How many.
            previous: Of the run before the container's last restart.
        """
        with _request(f"read the log of Pod {self.namespace}/{pod}", "Pod"):
            return self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                previous=previous,
                _request_timeout=LOG_TIMEOUT,
            )

    def events(self) -> list[Object]:
        """Return the events of the namespace, each with a reason and a message, which Kubernetes may omit."""
        with _request(f"list events in {self.namespace}", "Event"):
            events = self._items(self._core.list_namespaced_event(self.namespace, _request_timeout=TIMEOUT))
        return [{"reason": "", "message": "", **event} for event in events]

    def nodes(self) -> list[Object]:
        """Return all nodes; none if this account may not read them, which a role within a namespace cannot grant."""
        try:
            with _request("list nodes", "Node"):
                return self._items(self._core.list_node(_request_timeout=TIMEOUT))
        except RefusedError as error:
            if error.status == 403:
                return []
            raise

    def _items(self, response: Any) -> list[Object]:
        return self._client.sanitize_for_serialization(response)["items"]

    # The server

    def server_version(self) -> str:
        """Return the version of Kubernetes."""
        with _request("read the server's version", "version"):
            return str(self._version.get_code(_request_timeout=TIMEOUT).git_version)

    def may(self, verb: str, group: str, resource: str, *, name: str = "") -> bool:
        """Return whether this account may do something in the namespace.

        Args:
            verb: Such as ``create``.
            group: API group; empty for pods and other core objects.
            resource: Plural name, with a subresource after a slash: ``pods/log``.
            name: Of the only object that it is about; empty for all of them.
        """
        resource, _, subresource = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "name": name}
        spec = {"resourceAttributes": {**attributes, "subresource": subresource}}
        with _request("review this account's permissions", "SelfSubjectAccessReview"):
            review = self._authorization.create_self_subject_access_review({"spec": spec}, _request_timeout=TIMEOUT)
            return bool(review.status.allowed)


def _load(configuration: Any) -> str:
    """Load the pod's service account or the kubeconfig into ``configuration``, and return its namespace."""
    from kubernetes import config

    try:
        if in_a_pod():
            config.load_incluster_config(client_configuration=configuration)
            return (SERVICE_ACCOUNT / "namespace").read_text().strip()
        config.load_kube_config(client_configuration=configuration)
        return config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            "no Kubernetes cluster is configured here",
            detail=str(error),
            remedy="Set KUBECONFIG, or check that `kubectl get pods` works",
        ) from error


@contextlib.contextmanager
def _request(request: str, kind: str) -> Generator[None]:
    """Raise RefusedError if the API server refuses the request of the block, or does not respond."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        status = error.status or 0
        error_class = {404: NotFoundError, 409: ConflictError}.get(status, RefusedError)
        raise error_class(status, _status_object(error.body), kind, request) from error
    except (HTTPError, OSError) as error:
        raise RefusedError(0, {"message": str(error)}, kind, request) from error


def _status_object(body: Any) -> Object:
    try:
        status = json.loads(body or "{}")
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"message": str(body)}
