"""What users add to a RayCluster: TLS with a certificate for each pod, pull secrets, the head's state in Redis."""

import copy
import os
from typing import Any

from tests.cluster.kubernetes_access import START_SECONDS, Namespace

AUTHORITY = "ray-authority"
"""The Secret with the certificate of the authority and its key."""
MAKE_CERTIFICATE = """set -eu
cd /tls
openssl req -newkey rsa:2048 -nodes -keyout tls.key -subj /CN=ray -out tls.csr
echo "subjectAltName=IP:127.0.0.1,IP:$POD_IP,DNS:localhost,DNS:*.$NAMESPACE.svc.cluster.local" > names
openssl x509 -req -in tls.csr -CA /authority/ca.crt -CAkey /authority/ca.key -set_serial 0x$(openssl rand -hex 8) \
  -days 30 -extfile names -out tls.crt
cp /authority/ca.crt .
"""
"""As docs/kubernetes.md shows it."""
VARIABLES = {
    "RAY_USE_TLS": "1",
    "RAY_TLS_SERVER_CERT": "/tls/tls.crt",
    "RAY_TLS_SERVER_KEY": "/tls/tls.key",
    "RAY_TLS_CA_CERT": "/tls/ca.crt",
}
MOUNT = {"name": "tls", "mountPath": "/tls"}
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def secured(manifest: dict[str, Any], image: str, redis: str) -> dict[str, Any]:
    """Return a RayCluster manifest with all of it.

    Args:
        manifest: Without it.
        image: Of the container that makes certificates.
        redis: The address of a Redis.
    """
    cluster = copy.deepcopy(manifest)
    spec = cluster["spec"]
    spec["gcsFaultToleranceOptions"] = {"redisAddress": redis}
    variables = [{"name": name, "value": value} for name, value in VARIABLES.items()]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["imagePullSecrets"] = [{"name": AUTHORITY}]  # none is needed for this registry
        pod["initContainers"] = [_certificate(image)]
        # Not in place: the groups of the shipped manifest share their lists.
        authority = {"name": "authority", "secret": {"secretName": AUTHORITY}}
        pod["volumes"] = [*pod["volumes"], {"name": "tls", "emptyDir": {}}, authority]
        ray = pod["containers"][0]
        ray["env"] = [*ray.get("env", ()), *variables]
        ray["volumeMounts"] = [*ray["volumeMounts"], MOUNT]
    autoscaler = spec["autoscalerOptions"]
    autoscaler["env"] += variables
    autoscaler["volumeMounts"] = [MOUNT]
    return cluster


def _certificate(image: str) -> dict[str, Any]:
    fields = {"POD_IP": "status.podIP", "NAMESPACE": "metadata.namespace"}
    return {
        "name": "certificate",
        "image": image,
        "command": ["sh", "-c", MAKE_CERTIFICATE],
        "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()],
        "volumeMounts": [MOUNT, {"name": "authority", "mountPath": "/authority"}],
        "securityContext": RESTRICTED,
    }


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
