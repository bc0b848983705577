"""RayClusters that do not come up, each for one reason, and what must be found of each.

Their containers run no Ray, unless Ray is the point, but ``python`` with a line of code: two cores bear all of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Objects = list[dict[str, Any]]

SLEEP = "import time; time.sleep(9999)"
WELL, ILL = (
    {"exec": {"command": [command]}, "periodSeconds": 3, "failureThreshold": 2} for command in ("true", "false")
)


@dataclass(frozen=True)
class Place:
    """Where a case is made."""

    namespace: str
    image: str
    tainted_node: str
    """One that has the taint ``rayworks/test=taint:NoSchedule``."""
    other_node: str
    most_memory: int
    """More than half of that node's, in Ki."""


@dataclass(frozen=True)
class Case:
    """One reason, made for real."""

    name: str
    condition: str
    is_final: bool
    words: str
    """Of Kubernetes, which must be told."""
    make: Callable[[Place], Objects]
    is_head: bool = True
    group: str = ""
    kind: str = "Pod"
    """What the finding is about."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the namespace."""
    runs: bool = False
    """A container must have run before it can happen, so its time counts from then."""


def ray_cluster(
    place: Place, head: dict[str, Any] | None = None, worker: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """A RayCluster whose pods sleep and are ready, but for what ``head`` and ``worker`` say of pod and container."""
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
        "readinessProbe": WELL,
        "livenessProbe": WELL,
        **change.get("container", {}),
    }
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container], **change.get("spec", {})}
    group = {"rayStartParams": {}, "template": {"spec": spec}}
    return {**group, "groupName": name, "replicas": 1, "minReplicas": 0, "maxReplicas": 1} if name else group


def python(code: str, **container: Any) -> dict[str, Any]:
    """A change that runs a line of Python in place of Ray."""
    return {"container": {"command": ["python3", "-c", code], **container}}


def volume(**source: Any) -> dict[str, Any]:
    """A change that mounts a volume at ``/data``."""
    mounts = [{"name": "data", "mountPath": "/data"}]
    return {"spec": {"volumes": [{"name": "data", **source}]}, "container": {"volumeMounts": mounts}}


def of_namespace(place: Place, api: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": place.namespace}, "spec": spec}


def quota(place: Place, **hard: str) -> dict[str, Any]:
    return of_namespace(
        place, "v1", "ResourceQuota", "small", {"hard": {name.replace("_", "."): most for name, most in hard.items()}}
    )


def policy(place: Place, group: str, resource: str) -> Objects:
    """A rule of the cluster for objects of this namespace, that none meets."""
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
    """A webhook for objects of this namespace, where nobody answers."""
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


def _no_room(place: Place) -> Objects:
    """One pod takes more than half of a node; a head that would fit the empty node asks for as much."""
    half = {"requests": {"cpu": "10m", "memory": f"{place.most_memory}Ki"}}
    here = {"kubernetes.io/hostname": place.other_node}
    filler = {"name": "filler", "image": place.image, "command": ["python3", "-c", SLEEP], "resources": half}
    spec = {"nodeName": place.other_node, "terminationGracePeriodSeconds": 1, "containers": [filler]}
    return [
        of_namespace(place, "v1", "Pod", "filler", spec),
        ray_cluster(place, {"container": {"resources": half}, "spec": {"nodeSelector": here}}),
    ]


def _claim(place: Place) -> dict[str, Any]:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "absent",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return of_namespace(place, "v1", "PersistentVolumeClaim", "claim", spec)


RAY_HEAD = {
    "container": {
        "command": ["bash", "-c", "ulimit -n 65536; $KUBERAY_GEN_RAY_START_CMD"],
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    }
}
"""A head that runs Ray, for workers do not start without."""
RAY_WORKER = {"container": {**RAY_HEAD["container"], "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}}
HUGE = {"container": {"resources": {"requests": {"cpu": "1000"}}}}
OUT_OF_MEMORY = python("bytearray(10**9)", resources={"limits": {"memory": "32Mi"}})
CRASHES = python("import sys; sys.exit('broken')", terminationMessagePolicy="FallbackToLogsOnError")
ENDS_FOR_GOOD = {**CRASHES, "spec": {"restartPolicy": "Never"}}


def absent_image(place: Place) -> dict[str, Any]:
    return {"container": {"image": f"{place.image.rpartition('/')[0] or 'localhost'}/absent:1"}}


def tainted(place: Place) -> dict[str, Any]:
    return {"spec": {"nodeSelector": {"kubernetes.io/hostname": place.tainted_node}}}


CASES = (
    Case("head-too-large", "TooLarge", True, "Insufficient cpu", lambda at: [ray_cluster(at, HUGE)]),
    Case(
        "worker-too-large",
        "TooLarge",
        True,
        "Insufficient cpu",
        lambda at: [ray_cluster(at, worker=HUGE)],
        False,
        "small",
    ),
    Case("no-room", "NoRoom", False, "Insufficient memory", _no_room),
    Case(
        "head-taint",
        "UntoleratedTaint",
        True,
        "rayworks/test=taint:NoSchedule",
        lambda at: [ray_cluster(at, tainted(at))],
    ),
    Case(
        "worker-taint",
        "UntoleratedTaint",
        True,
        "rayworks/test=taint:NoSchedule",
        lambda at: [ray_cluster(at, worker=tainted(at))],
        False,
        "small",
    ),
    Case(
        "affinity",
        "UnmatchedAffinity",
        True,
        "didn't match Pod's node affinity/selector",
        lambda at: [ray_cluster(at, {"spec": {"nodeSelector": {"disk": "absent"}}})],
    ),
    Case(
        "head-quota",
        "QuotaExceeded",
        True,
        "exceeded quota: small",
        lambda at: [quota(at, requests_cpu="5m"), ray_cluster(at)],
        kind="RayCluster",
    ),
    Case(
        "worker-quota",
        "QuotaExceeded",
        True,
        "used: pods=1, limited: pods=1",
        lambda at: [quota(at, pods="1"), ray_cluster(at, worker={})],
        False,
        "small",
        "RayCluster",
    ),
    Case("head-image", "ImageNotFound", True, "absent:1: not found", lambda at: [ray_cluster(at, absent_image(at))]),
    Case(
        "worker-image",
        "ImageNotFound",
        True,
        "absent:1: not found",
        lambda at: [ray_cluster(at, worker=absent_image(at))],
        False,
        "small",
    ),
    Case(
        "image-name",
        "ImageNotFound",
        True,
        "invalid reference format",
        lambda at: [ray_cluster(at, {"container": {"image": "Not An Image"}})],
    ),
    Case(
        "registry",
        "ImageUnreachable",
        False,
        "connection refused",
        lambda at: [ray_cluster(at, {"container": {"image": "127.0.0.1:1/absent:1"}})],
    ),
    Case("head-crash", "CrashLoop", True, "broken", lambda at: [ray_cluster(at, CRASHES)], runs=True),
    Case(
        "command",
        "CrashLoop",
        True,
        "executable file not found",
        lambda at: [ray_cluster(at, {"container": {"command": ["absent"]}})],
        runs=True,
    ),
    Case(
        "head-ends-for-good",
        "CrashLoop",
        True,
        "Deleted head Pod",
        lambda at: [ray_cluster(at, ENDS_FOR_GOOD)],
        kind="RayCluster",
        runs=True,
    ),
    Case(
        "worker-memory",
        "OutOfMemory",
        True,
        "OOMKilled",
        lambda at: [ray_cluster(at, RAY_HEAD, OUT_OF_MEMORY)],
        False,
        "small",
        runs=True,
    ),
    Case(
        "worker-crash",
        "CrashLoop",
        True,
        "broken",
        lambda at: [ray_cluster(at, RAY_HEAD, CRASHES)],
        False,
        "small",
        runs=True,
    ),
    Case("head-memory", "OutOfMemory", True, "OOMKilled", lambda at: [ray_cluster(at, OUT_OF_MEMORY)], runs=True),
    Case(
        "readiness",
        "UnreadyProbe",
        False,
        "Readiness probe failed",
        lambda at: [ray_cluster(at, {"container": {"readinessProbe": ILL}})],
        runs=True,
    ),
    Case(
        "liveness",
        "UnreadyProbe",
        True,
        "Liveness probe failed",
        lambda at: [ray_cluster(at, {"container": {"livenessProbe": ILL, "readinessProbe": ILL}})],
        runs=True,
    ),
    Case(
        "pod-security",
        "AdmissionRefused",
        True,
        'violates PodSecurity "restricted:latest"',
        lambda at: [ray_cluster(at)],
        kind="RayCluster",
        labels={"pod-security.kubernetes.io/enforce": "restricted"},
    ),
    Case(
        "policy",
        "AdmissionRefused",
        True,
        "the label cost-centre is missing",
        lambda at: [*policy(at, "", "pods"), ray_cluster(at)],
        kind="RayCluster",
    ),
    Case(
        "webhook",
        "WebhookUnreachable",
        False,
        'failed calling webhook "rules.example.com"',
        lambda at: [*webhook(at, "", "pods"), ray_cluster(at)],
        kind="RayCluster",
    ),
    Case(
        "service-account",
        "ConfigMissing",
        True,
        'serviceaccount "absent" not found',
        lambda at: [ray_cluster(at, {"spec": {"serviceAccountName": "absent"}})],
        kind="RayCluster",
    ),
    Case(
        "config-map",
        "ConfigMissing",
        True,
        'configmap "absent" not found',
        lambda at: [ray_cluster(at, {"container": {"envFrom": [{"configMapRef": {"name": "absent"}}]}})],
    ),
    Case(
        "secret-volume",
        "ConfigMissing",
        True,
        'secret "absent" not found',
        lambda at: [ray_cluster(at, volume(secret={"secretName": "absent"}))],
    ),
    Case(
        "claim-missing",
        "VolumeUnbound",
        True,
        'persistentvolumeclaim "absent" not found',
        lambda at: [ray_cluster(at, volume(persistentVolumeClaim={"claimName": "absent"}))],
    ),
    Case(
        "claim-unbound",
        "VolumeUnbound",
        True,
        'storageclass.storage.k8s.io "absent" not found',
        lambda at: [_claim(at), ray_cluster(at, volume(persistentVolumeClaim={"claimName": "claim"}))],
    ),
    Case(
        "invalid",
        "InvalidManifest",
        True,
        "greater than maxReplicas",
        lambda at: [_with_group(ray_cluster(at, worker={}), minReplicas=5)],
        False,
        kind="RayCluster",
    ),
    Case(
        "operator",
        "OperatorSilent",
        True,
        "no status",
        # Another controller's: KubeRay leaves it alone, as it would when it did not run.
        lambda at: [ray_cluster(at, managedBy="kueue.x-k8s.io/multikueue")],
        False,
        kind="RayCluster",
    ),
    Case(
        "suspended", "Queued", False, "suspended", lambda at: [ray_cluster(at, suspend=True)], False, kind="RayCluster"
    ),
    Case(
        "gated",
        "Queued",
        False,
        "non-empty scheduling gates",
        lambda at: [ray_cluster(at, {"spec": {"schedulingGates": [{"name": "example.com/queue"}]}})],
    ),
    Case(
        "evicted",
        "Evicted",
        False,
        'exceeds the limit "1Mi"',
        lambda at: [ray_cluster(at, _fills_its_volume())],
        runs=True,
    ),
    Case(
        "runtime",
        "NotStarted",
        False,
        "Failed to create pod sandbox",
        lambda at: [
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": at.namespace},
                "handler": "absent",
            },
            ray_cluster(at, {"spec": {"runtimeClassName": at.namespace}}),
        ],
    ),
)


def _with_group(cluster: dict[str, Any], **change: Any) -> dict[str, Any]:
    cluster["spec"]["workerGroupSpecs"][0].update(change)
    return cluster


def _fills_its_volume() -> dict[str, Any]:
    change = volume(emptyDir={"sizeLimit": "1Mi"})
    code = f"open('/data/much', 'wb').write(bytes(10**7)); {SLEEP}"
    return {**change, "container": {**change["container"], **python(code)["container"]}}
