"""Manifests of RayClusters that run no Ray, and of what keeps a RayCluster from starting: a quota, a policy, a webhook.

Their containers run ``python`` with a line of code, unless Ray is the point: two cores can run dozens of them at once.
"""

from dataclasses import dataclass
from typing import Any

Objects = list[dict[str, Any]]

SLEEP = "import time; time.sleep(9999)"
HEALTHY = {"exec": {"command": ["true"]}, "periodSeconds": 60, "timeoutSeconds": 30}
UNHEALTHY = {"exec": {"command": ["false"]}, "periodSeconds": 3, "failureThreshold": 2}


@dataclass(frozen=True)
class Place:
    """Where a cluster is created."""

    namespace: str
    image: str
    tainted_node: str
    """One that has the taint ``rayworks/test=taint:NoSchedule``."""
    other_node: str
    most_memory: int
    """More than half of that node's, in Ki."""


def ray_cluster(
    place: Place, head: dict[str, Any] | None = None, worker: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a RayCluster whose pods sleep and are ready, but for what ``head`` and ``worker`` change in them."""
    groups = [] if worker is None else [_group("worker", "small", place, worker)]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": "ray",
            "namespace": place.namespace,
            "annotations": {"ray.io/overwrite-container-cmd": "true"},
        },
        "spec": {"headGroupSpec": _group("head", "", place, head or {}), "workerGroupSpecs": groups, **spec},
    }


def _group(role: str, name: str, place: Place, change: dict[str, Any]) -> dict[str, Any]:
    container = {
        "name": f"ray-{role}",
        "image": place.image,
        "command": ["python3", "-c", SLEEP],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "readinessProbe": HEALTHY,
        "livenessProbe": HEALTHY,
        **change.get("container", {}),
    }
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container], **change.get("spec", {})}
    group = {"rayStartParams": {}, "template": {"spec": spec}}
    return {**group, "groupName": name, "replicas": 1, "minReplicas": 0, "maxReplicas": 1} if name else group


def python(code: str, **container: Any) -> dict[str, Any]:
    """Return a change that runs a line of Python in place of Ray."""
    return {"container": {"command": ["python3", "-c", code], **container}}


def volume(**source: Any) -> dict[str, Any]:
    """Return a change that mounts a volume at ``/data``."""
    mounts = [{"name": "data", "mountPath": "/data"}]
    return {"spec": {"volumes": [{"name": "data", **source}]}, "container": {"volumeMounts": mounts}}


def of_namespace(place: Place, api: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": place.namespace}, "spec": spec}


def quota(place: Place, **hard: str) -> dict[str, Any]:
    return of_namespace(
        place, "v1", "ResourceQuota", "small", {"hard": {name.replace("_", "."): most for name, most in hard.items()}}
    )


def policy(place: Place, group: str, resource: str) -> Objects:
    """Return an admission policy that no object of this namespace meets."""
    api, name = "admissionregistration.k8s.io/v1", place.namespace
    rules = [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}]
    deny = [{"expression": "false", "message": "the label cost-centre is missing"}]
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}}}
    return [
        {
            "apiVersion": api,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": deny},
        },
        {
            "apiVersion": api,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": here},
        },
    ]


def webhook(place: Place, group: str, resource: str) -> Objects:
    """Return a webhook for objects of this namespace, at an address that does not respond."""
    hook = {
        "name": "rules.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 2,
    }
    api = "admissionregistration.k8s.io/v1"
    return [
        {
            "apiVersion": api,
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": place.namespace},
            "webhooks": [hook],
        }
    ]


RAY_HEAD = {
    "container": {
        "command": ["bash", "-c", "ulimit -n 65536; $KUBERAY_GEN_RAY_START_CMD"],
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    }
}
"""A head that runs Ray: workers do not start without one."""
RAY_WORKER = {"container": {**RAY_HEAD["container"], "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}}


def absent_image(place: Place) -> dict[str, Any]:
    return {"container": {"image": f"{place.image.rpartition('/')[0] or 'localhost'}/absent:1"}}


def tainted(place: Place) -> dict[str, Any]:
    return {"spec": {"nodeSelector": {"kubernetes.io/hostname": place.tainted_node}}}


def with_group(cluster: dict[str, Any], **change: Any) -> dict[str, Any]:
    cluster["spec"]["workerGroupSpecs"][0].update(change)
    return cluster


def fills_its_volume() -> dict[str, Any]:
    change = volume(emptyDir={"sizeLimit": "1Mi"})
    code = f"open('/data/much', 'wb').write(bytes(10**7)); {SLEEP}"
    return {**change, "container": {**change["container"], **python(code)["container"]}}
