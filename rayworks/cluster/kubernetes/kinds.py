"""The kinds of Kubernetes objects that rayworks creates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of namespaced object."""

    group: str
    version: str
    plural: str
    """Its name in URLs and roles."""
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"


RAYCLUSTER = Kind("ray.io", "v1", "rayclusters", "RayCluster")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
