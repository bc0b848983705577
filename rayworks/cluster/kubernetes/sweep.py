"""Deletes the RayClusters that no driver uses: those of runs that were killed, and shared ones that are idle."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rayworks.cluster.kubernetes import post_mortem, raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.kinds import LEASE, RAYCLUSTER
from rayworks.cluster.kubernetes.lease import LEASE_SECONDS, RENEW_SECONDS, is_abandoned, last_used, lost_runs
from rayworks.cluster.kubernetes.objects import Object, age, is_being_deleted
from rayworks.errors import ClusterError

logger = logging.getLogger(__name__)

PREFECT_FLOW_RUN_LABEL = "prefect.io/flow-run-id"
"""Prefect's label for the pod that executes a flow run (``prefect_kubernetes``)."""


@dataclass(frozen=True)
class Swept:
    """What a sweep did and found."""

    deleted: list[str]
    """Names of the RayClusters that it deleted."""
    lost_runs: dict[str, datetime]
    """Ids of the flow runs whose processes are lost, each with when that was last known to work."""


def sweep(*, storage_uri: str, namespace: str | None = None) -> Swept:
    """Save the logs of abandoned RayClusters, and delete them. Safe to run at any time, and any number of times.

    Args:
        storage_uri: Where to save the logs.
        namespace: By default the pod's own, or that of the kubeconfig.

    Raises:
        ClusterError: The Kubernetes API does not respond, or forbids it.
    """
    api = KubernetesApi(namespace)
    try:
        of_pods = runs_on_lost_nodes(api.pods(labels=PREFECT_FLOW_RUN_LABEL), datetime.now(UTC))
        if _is_clean(api):
            return Swept([], of_pods)
        # After an outage of the Kubernetes API no driver has renewed its Lease. Those that are alive do so before the
        # second check.
        time.sleep(RENEW_SECONDS * 1.5)
        # Clusters before Leases: a cluster that a driver acquires meanwhile has another version when it is deleted.
        clusters, leases = _managed(api)
        now = datetime.now(UTC)
        deleted: list[str] = []
        for cluster in _abandoned(clusters, leases, now):
            metadata = cluster["metadata"]
            name, unused = metadata["name"], now - last_used(cluster, leases)
            post_mortem.save(api, name, storage_uri=storage_uri)
            if api.delete(RAYCLUSTER, name, uid=metadata["uid"], resource_version=metadata["resourceVersion"]):
                logger.info("Deleted RayCluster %s/%s: unused for %.0f s", api.namespace, name, unused.total_seconds())
                deleted.append(name)
        return Swept(deleted, of_pods | lost_runs(leases, now))
    except RefusedError as error:
        raise ClusterError(
            "the Kubernetes API refused to sweep",
            where=error.request,
            detail=str(error),
            remedy="Grant get, list and delete of rayclusters and leases, and list of pods, and see docs/kubernetes.md",
        ) from error


def runs_on_lost_nodes(pods: Iterable[Object], now: datetime) -> dict[str, datetime]:
    """Return the flow runs whose pods had to end and have not, each with when its pod was deleted.

    Kubernetes deletes the pods of a node that does not respond, and then waits for the node. So does the Job of a flow
    run (``podReplacementPolicy: Failed``): Prefect does not notice.
    """
    lost: dict[str, datetime] = {}
    for metadata in (pod["metadata"] for pod in pods if is_being_deleted(pod)):
        overdue = age(metadata["deletionTimestamp"], now)  # that is when it is killed at the latest
        if overdue > LEASE_SECONDS:
            since_deletion = timedelta(seconds=overdue + metadata["deletionGracePeriodSeconds"])
            lost[metadata["labels"][PREFECT_FLOW_RUN_LABEL]] = now - since_deletion
    return lost


def _managed(api: KubernetesApi) -> tuple[list[Object], list[Object]]:
    """Return the RayClusters and then the Leases that rayworks created."""
    labels = raycluster_manifest.MANAGED_BY_SELECTOR
    return api.list_objects(RAYCLUSTER, labels=labels), api.list_objects(LEASE, labels=labels)


def _is_clean(api: KubernetesApi) -> bool:
    (clusters, leases), now = _managed(api), datetime.now(UTC)
    return not _abandoned(clusters, leases, now) and not lost_runs(leases, now)


def _abandoned(clusters: list[Object], leases: list[Object], now: datetime) -> list[Object]:
    return [cluster for cluster in clusters if not is_being_deleted(cluster) and is_abandoned(cluster, leases, now)]
