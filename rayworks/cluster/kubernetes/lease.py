"""Who uses a RayCluster: each driver holds a Lease for it and renews it. :func:`is_abandoned` is pure.

A cluster whose drivers have all gone, however they went, is known by its Leases alone: no server has to be asked.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError

RENEW_SECONDS = 10
LEASE_SECONDS = 30
"""A driver that has not renewed for so long is gone: three renewals are missed."""
CLUSTER_LABEL = "rayworks.io/cluster"
USED_ANNOTATION = "rayworks.io/last-used"
"""When a driver took or left a shared cluster. Setting it also changes the cluster's resourceVersion, so that whoever is
about to delete what seemed unused is refused."""

logger = logging.getLogger(__name__)


def last_used(cluster: Mapping[str, Any], leases: Iterable[Mapping[str, Any]]) -> datetime:
    """When a driver was last there; a cluster that nobody has come to yet counts from its creation."""
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
    """Whether a RayCluster that rayworks made is of use to nobody any more."""
    annotations = cluster["metadata"].get("annotations") or {}
    idle = float(annotations.get(raycluster_manifest.IDLE_ANNOTATION) or 0)
    return now - last_used(cluster, leases) > timedelta(seconds=max(idle, LEASE_SECONDS))


def lost_runs(leases: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, datetime]:
    """The flow runs whose drivers are gone without giving their Leases back, and when each was last heard of.

    A run that was begun again, and so holds another Lease, is not lost.
    """
    heard: dict[str, datetime] = {}
    for lease in leases:
        if flow_run_id := (lease["metadata"].get("labels") or {}).get(raycluster_manifest.FLOW_RUN_LABEL):
            renewed = _time(lease["spec"]["renewTime"])
            heard[flow_run_id] = max(renewed, heard.get(flow_run_id, renewed))
    return {flow_run_id: last for flow_run_id, last in heard.items() if now - last > timedelta(seconds=LEASE_SECONDS)}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Hold:
    """A driver's Lease for a cluster, renewed by a thread from :meth:`start` to :meth:`stop`.

    Args:
        api: Of the cluster's namespace.
        cluster: The RayCluster.
        holder: Name of the driver, unique among those of the cluster.
        flow_run_id: The flow run that the driver is, if it is one.
    """

    def __init__(
        self, api: KubernetesApi, cluster: dict[str, Any], holder: str, flow_run_id: str | None = None
    ) -> None:
        self._api, self._cluster, self._holder = api, cluster, holder
        self._labels = {CLUSTER_LABEL: cluster["metadata"]["name"]}
        if flow_run_id:
            self._labels[raycluster_manifest.FLOW_RUN_LABEL] = flow_run_id
        self.name = f"{cluster['metadata']['name']}-{holder}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_regularly, name="rayworks-lease", daemon=True)

    def start(self) -> None:
        """Take the Lease. Raises RefusedError when the API does not grant it."""
        self._renew()
        self._thread.start()

    def _renew(self) -> None:
        self._api.renew_lease(
            self.name, holder=self._holder, seconds=LEASE_SECONDS, labels=self._labels, owner=self._cluster
        )

    def _renew_regularly(self) -> None:
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self._renew()
            except RefusedError as error:  # the cluster's end is noticed by who watches it
                logger.warning("The Lease %s could not be renewed: %s", self.name, error)

    def stop(self) -> None:
        """Give the Lease back."""
        self.lapse()
        self._api.delete_lease(self.name)

    def lapse(self) -> None:
        """Renew the Lease no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=RENEW_SECONDS)
