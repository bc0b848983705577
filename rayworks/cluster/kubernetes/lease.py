"""The drivers that use a RayCluster: each acquires a Lease for it and renews it. :func:`is_abandoned` is pure.

The Leases alone show whether a cluster still has drivers, however a driver ended. No server needs to know whether a run
is alive.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.kinds import LEASE
from rayworks.cluster.kubernetes.objects import Object, owner_reference

RENEW_SECONDS = 10
LEASE_SECONDS = 30
"""A driver that has not renewed its Lease for this long is lost: it missed three renewals."""
CLUSTER_LABEL = "rayworks.io/cluster"
USED_ANNOTATION = "rayworks.io/last-used"
"""When a driver started or stopped using a shared cluster. Setting it also changes the cluster's resourceVersion, and
the API server then refuses a sweep that is about to delete the cluster as unused."""

logger = logging.getLogger(__name__)


def last_used(cluster: Mapping[str, Any], leases: Iterable[Mapping[str, Any]]) -> datetime:
    """Return when a driver last used a cluster; for a cluster without drivers, when it was created."""
    metadata = cluster["metadata"]
    times = [_time(metadata["creationTimestamp"])]
    times += [
        _time(lease["spec"]["renewTime"])
        for lease in leases
        if (lease["metadata"].get("labels") or {}).get(CLUSTER_LABEL) == metadata["name"]
    ]
    if used := (metadata.get("annotations") or {}).get(USED_ANNOTATION):
        times.append(_time(used))
    return max(times)


def is_abandoned(cluster: Mapping[str, Any], leases: Iterable[Mapping[str, Any]], now: datetime) -> bool:
    """Return whether a RayCluster that rayworks created has no driver left, and is not kept for the next one."""
    annotations = cluster["metadata"].get("annotations") or {}
    idle = float(annotations.get(raycluster_manifest.IDLE_ANNOTATION) or 0)
    return now - last_used(cluster, leases) > timedelta(seconds=max(idle, LEASE_SECONDS))


def lost_runs(leases: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, datetime]:
    """Return the flow runs whose drivers ended without releasing their Leases, each with its last renewal.

    A run that was restarted holds another Lease, and is not lost.
    """
    renewals: dict[str, datetime] = {}
    for lease in leases:
        if flow_run_id := (lease["metadata"].get("labels") or {}).get(raycluster_manifest.FLOW_RUN_LABEL):
            renewed = _time(lease["spec"]["renewTime"])
            renewals[flow_run_id] = max(renewed, renewals.get(flow_run_id, renewed))
    return {run: last for run, last in renewals.items() if now - last > timedelta(seconds=LEASE_SECONDS)}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def renew(api: KubernetesApi, name: str, *, holder: str, labels: Mapping[str, str], owner: Object) -> None:
    """Renew a Lease for :data:`LEASE_SECONDS` from now; create it if it does not exist.

    Args:
        api: Of the namespace.
        name: Of the Lease.
        holder: Name of the driver.
        labels: For a new Lease.
        owner: The RayCluster. Kubernetes deletes the Lease with it.

    Raises:
        RefusedError: The API server refuses it.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": holder, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
    if api.patch(LEASE, name, {"spec": spec}) is not None:
        return
    metadata = {
        "name": name,
        "labels": {**raycluster_manifest.MANAGED_BY, **labels},
        "ownerReferences": [owner_reference(owner)],
    }
    lease = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata}
    api.create(LEASE, {**lease, "spec": {**spec, "acquireTime": now}})


class DriverLease:
    """A driver's Lease for a cluster, renewed by a thread from :meth:`acquire` to :meth:`release`.

    Args:
        api: Of the cluster's namespace.
        cluster: The RayCluster.
        holder: Name of the driver, unique among the drivers of the cluster.
        flow_run_id: The flow run of the driver, if it has one.
    """

    def __init__(self, api: KubernetesApi, cluster: Object, holder: str, flow_run_id: str | None = None) -> None:
        self._api, self._cluster, self._holder = api, cluster, holder
        self._labels = {CLUSTER_LABEL: cluster["metadata"]["name"]}
        if flow_run_id:
            self._labels[raycluster_manifest.FLOW_RUN_LABEL] = flow_run_id
        self.name = f"{cluster['metadata']['name']}-{holder}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_regularly, name="rayworks-lease", daemon=True)

    def acquire(self) -> None:
        """Create the Lease, and start to renew it. Raises RefusedError if the API server refuses it."""
        self._renew()
        self._thread.start()

    def _renew(self) -> None:
        renew(self._api, self.name, holder=self._holder, labels=self._labels, owner=self._cluster)

    def _renew_regularly(self) -> None:
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self._renew()
            except RefusedError as error:  # if the cluster is lost, its watch notices
                logger.warning("The Lease %s could not be renewed: %s", self.name, error)
            except Exception:  # without this thread, the Lease would expire and the sweep delete the cluster
                logger.exception("The Lease %s could not be renewed", self.name)

    def release(self) -> None:
        """Stop renewing the Lease, and delete it."""
        self.stop_renewing()
        self._api.delete(LEASE, self.name)

    def stop_renewing(self) -> None:
        """Stop renewing the Lease, so that it expires."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=RENEW_SECONDS)
