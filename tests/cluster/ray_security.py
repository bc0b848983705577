"""What users add to a RayCluster: TLS with a certificate for each pod, pull secrets, the head's state in Redis."""

import copy
import os
from typing import Any

import yaml

from tests.cluster.kubernetes_access import START_SECONDS, Namespace
from tests.docs.code_blocks import ROOT, blocks

AUTHORITY = "ray-authority"
"""The Secret with the certificate of the authority and its key."""
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def secured(manifest: dict[str, Any], image: str, redis: str) -> dict[str, Any]:
    """Return a RayCluster manifest with all of it, as docs/kubernetes.md says.

    Args:
        manifest: Without it.
        image: Of the container that makes certificates.
        redis: The address of a Redis.
    """
    of_pod, variables = (
        yaml.safe_load(block.text) for block in blocks("yaml", [ROOT / "docs/kubernetes.md"]) if "tls" in block.text
    )
    of_pod["initContainers"][0]["image"] = image
    mount = {"name": "tls", "mountPath": "/tls"}
    cluster = copy.deepcopy(manifest)
    spec = cluster["spec"]
    spec["gcsFaultToleranceOptions"] = {"redisAddress": redis}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["imagePullSecrets"] = [{"name": AUTHORITY}]  # none is needed for this registry
        pod["initContainers"] = of_pod["initContainers"]
        # Not in place: the groups of the shipped manifest share their lists.
        pod["volumes"] = pod["volumes"] + of_pod["volumes"]
        ray = pod["containers"][0]
        ray["env"] = ray.get("env", []) + variables
        ray["volumeMounts"] = [*ray["volumeMounts"], mount]
    autoscaler = spec["autoscalerOptions"]
    autoscaler["env"] = autoscaler["env"] + variables
    autoscaler["volumeMounts"] = [mount]
    return cluster


def redis_objects() -> list[dict[str, Any]]:
    """Return a pod that runs Redis, and its service."""
    container = {
        "name": "redis",
        "image": os.environ.get("RAYWORKS_TEST_REDIS_IMAGE", "redis:7"),
        "args": ["redis-server", "--save", "", "--protected-mode", "no"],
        "securityContext": RESTRICTED,
    }
    security = {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}}
    metadata = {"name": "redis", "labels": {"app": "redis"}}
    pod = {"securityContext": security, "terminationGracePeriodSeconds": 1, "containers": [container]}
    service = {"selector": {"app": "redis"}, "ports": [{"port": 6379}]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def redis_keys(namespace: Namespace) -> list[str]:
    """Return the keys in Redis."""
    return namespace.kubectl("exec", "pod/redis", "--", "redis-cli", "keys", "*").split()


def await_redis(namespace: Namespace) -> None:
    namespace.kubectl("wait", "pod", "redis", "--for=condition=Ready", f"--timeout={START_SECONDS}s")
