"""RayClusters that do not start, each for one reason, and what the diagnosis must find of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.raycluster_manifests import (
    RAY_HEAD,
    SLEEP,
    UNHEALTHY,
    Objects,
    Place,
    absent_image,
    fills_its_volume,
    of_namespace,
    policy,
    python,
    quota,
    ray_cluster,
    tainted,
    volume,
    webhook,
    with_group,
)


@dataclass(frozen=True)
class Case:
    """One reason, and what brings it about."""

    name: str
    condition: str
    is_final: bool
    words: str
    """Of Kubernetes, which the finding must quote."""
    objects: Callable[[Place], Objects]
    """What to create for it."""
    is_head: bool = True
    group: str = ""
    kind: str = "Pod"
    """What the finding is about."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the namespace."""
    is_after_start: bool = False
    """It can only happen once a container has run, so its time counts from then."""


def _no_capacity(place: Place) -> Objects:
    """One pod takes more than half of a node; a head that would fit the empty node requests as much."""
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


HUGE = {"container": {"resources": {"requests": {"cpu": "1000"}}}}
OUT_OF_MEMORY = python("bytearray(10**9)", resources={"limits": {"memory": "32Mi"}})
CRASHES = python("import sys; sys.exit('broken')", terminationMessagePolicy="FallbackToLogsOnError")
ENDS_FOR_GOOD = {**CRASHES, "spec": {"restartPolicy": "Never"}}


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
    Case("no-room", "NoRoom", False, "Insufficient memory", _no_capacity),
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
    Case("head-crash", "CrashLoop", True, "broken", lambda at: [ray_cluster(at, CRASHES)], is_after_start=True),
    Case(
        "command",
        "CrashLoop",
        True,
        "executable file not found",
        lambda at: [ray_cluster(at, {"container": {"command": ["absent"]}})],
        is_after_start=True,
    ),
    Case(
        "head-ends-for-good",
        "CrashLoop",
        True,
        "Deleted head Pod",
        lambda at: [ray_cluster(at, ENDS_FOR_GOOD)],
        kind="RayCluster",
        is_after_start=True,
    ),
    Case(
        "worker-memory",
        "OutOfMemory",
        True,
        "OOMKilled",
        lambda at: [ray_cluster(at, RAY_HEAD, OUT_OF_MEMORY)],
        False,
        "small",
        is_after_start=True,
    ),
    Case(
        "worker-crash",
        "CrashLoop",
        True,
        "broken",
        lambda at: [ray_cluster(at, RAY_HEAD, CRASHES)],
        False,
        "small",
        is_after_start=True,
    ),
    Case(
        "head-memory",
        "OutOfMemory",
        True,
        "OOMKilled",
        lambda at: [ray_cluster(at, OUT_OF_MEMORY)],
        is_after_start=True,
    ),
    Case(
        "readiness",
        "UnreadyProbe",
        False,
        "Readiness probe failed",
        lambda at: [ray_cluster(at, {"container": {"readinessProbe": UNHEALTHY}})],
        is_after_start=True,
    ),
    Case(
        "liveness",
        "UnreadyProbe",
        True,
        "Liveness probe failed",
        lambda at: [ray_cluster(at, {"container": {"livenessProbe": UNHEALTHY, "readinessProbe": UNHEALTHY}})],
        is_after_start=True,
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
        lambda at: [with_group(ray_cluster(at, worker={}), minReplicas=5)],
        False,
        kind="RayCluster",
    ),
    Case(
        "operator",
        "OperatorSilent",
        True,
        "no status",
        # Managed by another controller: KubeRay leaves it alone, as it does when it is not installed.
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
        lambda at: [ray_cluster(at, fills_its_volume())],
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
