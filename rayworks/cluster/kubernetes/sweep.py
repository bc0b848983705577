"""Deletes the RayClusters that nobody uses any more: those of runs that were killed, and shared ones that are idle."""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rayworks.cluster.kubernetes import post_mortem
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.lease import RENEW_SECONDS, is_abandoned, last_used, lost_runs
from rayworks.errors import ClusterError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """What a sweep did and saw."""

    deleted: list[str]
    """Names of RayClusters."""
    lost_runs: dict[str, datetime]
    """Ids of flow runs whose drivers are gone, and when each was last heard of."""


def sweep(*, storage_uri: str, namespace: str | None = None) -> Swept:
    """Delete what is abandoned in a namespace, after its logs are saved. Safe to run at any time and any number of times.

    Raises:
        ClusterError: The Kubernetes API does not answer, or forbids it.
    """
    api = KubernetesApi(namespace)
    try:
        if _is_clean(api):
            return Swept([], {})
        # After an outage of the Kubernetes API no driver has renewed. All that live do so before the second look.
        time.sleep(RENEW_SECONDS * 1.5)
        clusters = (
            api.clusters()
        )  # before the leases: one that is taken meanwhile has another version when it is deleted
        leases = api.leases()
        now = datetime.now(UTC)
        deleted: list[str] = []
        for cluster in _abandoned(clusters, leases, now):
            metadata = cluster["metadata"]
            name, unused = metadata["name"], now - last_used(cluster, leases)
            post_mortem.save(api, name, storage_uri=storage_uri)
            if api.delete_cluster(name, uid=metadata["uid"], resource_version=metadata["resourceVersion"]):
                logger.info("Deleted RayCluster %s/%s: unused for %.0f s", api.namespace, name, unused.total_seconds())
                deleted.append(name)
        return Swept(deleted, lost_runs(leases, now))
    except RefusedError as error:
        raise ClusterError(
            "the Kubernetes API refused to sweep",
            where=error.what,
            detail=str(error),
            remedy="Grant get, list and delete of rayclusters and leases, and see docs/kubernetes.md",
        ) from error


def _is_clean(api: KubernetesApi) -> bool:
    clusters, leases, now = api.clusters(), api.leases(), datetime.now(UTC)
    return not _abandoned(clusters, leases, now) and not lost_runs(leases, now)


def _abandoned(clusters: list[dict[str, Any]], leases: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    there = [cluster for cluster in clusters if "deletionTimestamp" not in cluster["metadata"]]
    return [cluster for cluster in there if is_abandoned(cluster, leases, now)]
