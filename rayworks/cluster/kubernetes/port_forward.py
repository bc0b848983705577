"""Local ports that lead to ports of a service, for a driver outside of Kubernetes."""

import shutil

from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

START_SECONDS = 20


def forward(target: str, namespace: str, ports: tuple[int, ...]) -> tuple[BackgroundProcess, dict[int, int]]:
    """Forward local ports to those of an object with kubectl, until the process is ended.

    Args:
        target: ``pod/name``.
        namespace: Of the object.
        ports: Its ports.

    Returns:
        The process, and the local port for each port of the object.

    Raises:
        ClusterError: kubectl is missing, or could not forward the ports.
    """
    if (kubectl := shutil.which("kubectl")) is None:
        raise ClusterError(
            "a driver outside of Kubernetes needs kubectl",
            where=target,
            remedy="Install kubectl, or set RAYWORKS_RAY_ADDRESS to a ray:// address that is reachable from here",
        )
    process = BackgroundProcess(
        [kubectl, "port-forward", "--namespace", namespace, target, *(f":{port}" for port in ports)]
    )
    pattern = r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)"
    matches = process.wait_for(pattern, times=len(ports), seconds=START_SECONDS)
    if len(matches) < len(ports):
        message = process.last_line()
        process.end()
        raise ClusterError(
            "kubectl could not forward the head's ports",
            where=f"{namespace}/{target}",
            detail=message,
            remedy="Check that you may create pods/portforward in this namespace",
        )
    return process, {int(match[2]): int(match[1]) for match in matches}
