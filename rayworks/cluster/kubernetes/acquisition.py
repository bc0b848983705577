"""The first and the last phase of a driver on a RayCluster: create or share it, and delete it or leave it to others."""

import logging
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from rayworks.cluster import tls
from rayworks.cluster.kubernetes import post_mortem, raycluster_manifest
from rayworks.cluster.kubernetes.api import ConflictError, KubernetesApi, RefusedError, in_a_pod
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER
from rayworks.cluster.kubernetes.lease import USED_ANNOTATION, DriverLease
from rayworks.cluster.kubernetes.objects import Object, is_being_deleted
from rayworks.cluster.kubernetes.observer import POLL_SECONDS
from rayworks.errors import ClusterError
from rayworks.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Acquired:
    """A RayCluster that this driver uses, and the Lease that shows it."""

    api: KubernetesApi
    name: str
    uid: str
    is_shared: bool
    lease: DriverLease
    storage_uri: str
    has_dashboard: bool = True
    token_secret: str | None = None
    """The Secret with the token that the cluster wants of its clients."""

    def release(self, *, dashboard: str | None = None) -> None:
        """Delete the cluster if it belongs to this driver alone, and release the Lease. Errors are logged.

        Args:
            dashboard: URL of the Ray dashboard, to save Ray's own logs before the cluster is deleted.
        """
        try:
            if self.is_shared:
                _mark_used(self.api, self.name)
            else:
                self._delete(dashboard if self.has_dashboard else None)
            self.lease.release()
        except RefusedError as error:
            logger.error(
                "RayCluster %s/%s could not be released (%s). The sweep flow deletes it, or: %s",
                self.api.namespace,
                self.name,
                error,
                f"kubectl delete raycluster -n {self.api.namespace} {self.name}",
            )
        finally:
            self.lease.stop_renewing()

    def _delete(self, dashboard: str | None) -> None:
        folder = post_mortem.save(self.api, self.name, storage_uri=self.storage_uri, dashboard=dashboard)
        self.api.delete(RAYCLUSTER, self.name, uid=self.uid)
        logger.info("Deleted RayCluster %s/%s. Its logs and events are in %s", self.api.namespace, self.name, folder)


def acquire(api: KubernetesApi, settings: Settings, *, manifest_uri: str, flow_run_id: str | None) -> Acquired:
    """Create the RayCluster of a manifest, or use the shared one, and acquire a Lease for it.

    Args:
        api: Of the namespace.
        settings: Of the installation: image, job, and how long a shared cluster may idle.
        manifest_uri: The manifest.
        flow_run_id: The flow run of this driver, if it has one.

    Raises:
        ParameterError: The manifest cannot be used.
        StorageError: The manifest cannot be read.
        ClusterError: The shared cluster is another one, or is not deleted in time; or this process cannot speak TLS
            with it.
        RefusedError: The API server refuses the cluster or the Lease.
    """
    is_shared = settings.ray_idle_seconds > 0
    manifest = _manifest(settings, manifest_uri, api.namespace, flow_run_id)
    check_tls(manifest, manifest_uri)
    cluster = _share(api, manifest, seconds=settings.ray_start_seconds) if is_shared else _create(api, manifest)
    metadata = cluster["metadata"]
    lease = DriverLease(api, cluster, secrets.token_hex(4), flow_run_id)
    acquired = Acquired(
        api,
        metadata["name"],
        metadata["uid"],
        is_shared,
        lease,
        settings.storage_uri,
        has_dashboard=raycluster_manifest.has_dashboard(cluster),
        token_secret=raycluster_manifest.token_secret(cluster),
    )
    try:
        lease.acquire()
    except BaseException:
        acquired.release()
        raise
    return acquired


def check_tls(manifest: Object, manifest_uri: str) -> None:
    """Raise ClusterError if the manifest wants TLS, and this process could not speak it."""
    if raycluster_manifest.uses_tls(manifest):
        tls.check_own_certificate(manifest_uri, ip=os.environ.get("RAYWORKS_POD_IP") if in_a_pod() else None)


def _manifest(settings: Settings, uri: str, namespace: str, flow_run_id: str | None) -> Object:
    """Return the manifest at ``uri`` with what this run adds to it."""
    manifest = raycluster_manifest.read_with_image(uri, settings.image)
    name = manifest["metadata"]["name"][: raycluster_manifest.LONGEST_NAME]
    is_shared = settings.ray_idle_seconds > 0
    needs = raycluster_manifest.Needs(
        name=name if is_shared else f"{name.rstrip('-')}-{secrets.token_hex(4)}",
        namespace=namespace,
        image=settings.image,
        flow_run_id=flow_run_id,
        idle_seconds=settings.ray_idle_seconds,
        job=(settings.job_name, settings.job_uid) if settings.job_name and settings.job_uid else None,
        has_driver_in_a_pod=in_a_pod(),
    )
    return raycluster_manifest.for_run(manifest, needs)


def _create(api: KubernetesApi, manifest: Object) -> Object:
    cluster = api.create(RAYCLUSTER, manifest)
    logger.info("Created RayCluster %s/%s", api.namespace, manifest["metadata"]["name"])
    return cluster


def _share(api: KubernetesApi, manifest: Object, *, seconds: float) -> Object:
    """Return the shared cluster, which exists or is created now. Of drivers that come together, one creates it.

    Args:
        api: Of the namespace.
        manifest: The cluster.
        seconds: How long to wait while a previous cluster of this name is being deleted.
    """
    name, deadline = manifest["metadata"]["name"], time.monotonic() + seconds
    while True:
        try:
            return _create(api, manifest)
        except ConflictError:
            cluster = _mark_used(api, name)
        if cluster is not None and not is_being_deleted(cluster):
            _check_same_manifest(cluster, manifest)
            logger.info("Using the shared RayCluster %s/%s", api.namespace, name)
            return cluster
        if time.monotonic() > deadline:
            raise ClusterError(
                "the shared cluster is being deleted, and its deletion does not finish",
                where=f"{api.namespace}/{name}",
                remedy=f"Check why: kubectl describe raycluster -n {api.namespace} {name}",
            )
        time.sleep(POLL_SECONDS)


def _check_same_manifest(cluster: Object, manifest: Object) -> None:
    def digest(thing: Object) -> str | None:
        return (thing["metadata"].get("annotations") or {}).get(raycluster_manifest.MANIFEST_ANNOTATION)

    if digest(cluster) != digest(manifest):
        raise ClusterError(
            "the shared cluster was created from another manifest or image",
            where=f"{cluster['metadata']['namespace']}/{cluster['metadata']['name']}",
            remedy="Give this manifest another name, or delete that cluster when no run uses it",
        )


def _mark_used(api: KubernetesApi, name: str) -> Object | None:
    """Return the cluster after noting that a driver uses it now; None if it does not exist."""
    return api.annotate(RAYCLUSTER, name, {USED_ANNOTATION: datetime.now(UTC).isoformat()})
