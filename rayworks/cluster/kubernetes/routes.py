"""The phase in which a driver connects to its RayCluster: as a node from a pod, through a port-forward from outside."""

from dataclasses import dataclass

from rayworks.cluster import tls
from rayworks.cluster.existing import CONNECT_SECONDS
from rayworks.cluster.kubernetes import port_forward
from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.cluster.kubernetes.driver_node import DriverNode
from rayworks.cluster.kubernetes.objects import Object

GCS_PORT, CLIENT_PORT, DASHBOARD_PORT = 6379, 10001, 8265


@dataclass(frozen=True)
class Route:
    """How this process reaches Ray, as long as a process beside it runs."""

    ray_address: str
    dashboard: str
    """URL of the Ray dashboard, for this process."""
    process: BackgroundProcess | DriverNode

    def close(self) -> None:
        self.process.end()


def from_a_pod(head: Object, node: DriverNode) -> Route:
    """Let this pod join the cluster as a node without CPUs.

    Args:
        head: The head's pod.
        node: The node that this pod becomes.

    Raises:
        ClusterError: It could not join, or one of them uses TLS alone.
    """
    ip = head["status"]["podIP"]
    address = f"{ip}:{GCS_PORT}"
    tls.check_handshake(ip, GCS_PORT, where=address, timeout=CONNECT_SECONDS)
    node.join(address)
    return Route(address, f"http://{ip}:{DASHBOARD_PORT}", node)


def from_outside(head: Object) -> Route:
    """Forward local ports to the client server and the dashboard of a cluster.

    Args:
        head: The head's pod. Its service may have any name.

    Raises:
        ClusterError: kubectl is missing, or could not forward the ports.
    """
    target, namespace = pod(head), head["metadata"]["namespace"]
    process, ports = port_forward.forward(target, namespace, (CLIENT_PORT, DASHBOARD_PORT))
    return Route(f"ray://127.0.0.1:{ports[CLIENT_PORT]}", f"http://127.0.0.1:{ports[DASHBOARD_PORT]}", process)


def pod(head: Object) -> str:
    """Return the head's pod, as kubectl names it."""
    return f"pod/{head['metadata']['name']}"
