"""Choose where Ray runs, from one setting."""

from rayworks.cluster import _private
from rayworks.cluster.contract import Cluster
from rayworks.cluster.embedded import EmbeddedRay
from rayworks.cluster.existing import ExistingRay
from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.raycluster import KubeRayCluster
from rayworks.settings import Settings


def cluster_of(settings: Settings) -> Cluster:
    """Return the cluster that ``RAYWORKS_RAY_ADDRESS`` names. Without an address, that is embedded Ray."""
    if not settings.ray_address:
        return EmbeddedRay()
    if raycluster_manifest.is_manifest(settings.ray_address):
        return KubeRayCluster(settings)
    return ExistingRay(settings.ray_address)


def prepare() -> None:
    """Set what Ray reads when it is imported. Call it before the first ``import ray``."""
    _private.set_import_defaults()


def is_worker() -> bool:
    """Return whether this process is a Ray worker, and not a driver. Ray must be connected."""
    return _private.is_worker()
