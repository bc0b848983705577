"""Deletes the RayClusters that nobody uses any more: those of runs that were killed, and shared ones that are idle."""

import logging
from datetime import UTC, datetime

from rayworks.cluster import post_mortem
from rayworks.cluster.kubernetes_api import KubernetesApi, RefusedError
from rayworks.cluster.lease import is_abandoned, last_used
from rayworks.errors import ClusterError

logger = logging.getLogger(__name__)


def sweep(*, storage_uri: str, namespace: str | None = None) -> list[str]:
    """Delete what is abandoned in a namespace, after its logs are saved. Safe to run at any time and any number of times.

    Returns:
        Names of the RayClusters that were deleted.

    Raises:
        ClusterError: The Kubernetes API does not answer, or forbids it.
    """
    api = KubernetesApi(namespace)
    try:
        clusters = api.clusters()  # before the leases: one that is taken meanwhile has another version when it is deleted
        leases = api.leases()
        now = datetime.now(UTC)
        deleted: list[str] = []
        for cluster in clusters:
            metadata = cluster["metadata"]
            if "deletionTimestamp" in metadata or not is_abandoned(cluster, leases, now):
                continue
            name, unused = metadata["name"], now - last_used(cluster, leases)
            post_mortem.save(api, name, storage_uri=storage_uri)
            if api.delete_cluster(name, uid=metadata["uid"], resource_version=metadata["resourceVersion"]):
                logger.info("Deleted RayCluster %s/%s: unused for %.0f s", api.namespace, name, unused.total_seconds())
                deleted.append(name)
    except RefusedError as error:
        raise ClusterError(
            "the Kubernetes API refused to sweep", where=error.what, said=str(error),
            remedy="Grant get, list and delete of rayclusters and leases, and see docs/kubernetes.md",
        ) from error  # fmt: skip
    return deleted
