"""Ports of a service on this machine, for a driver outside of Kubernetes."""

import shutil

from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

START_SECONDS = 20


def forward(target: str, namespace: str, ports: tuple[int, ...]) -> tuple[BackgroundProcess, dict[int, int]]:
    """Forward local ports to those of ``target`` (``service/name``), by kubectl, until the process is ended.

    Returns:
        The process, and the local port of each remote one.

    Raises:
        ClusterError: There is no kubectl, or it could not forward.
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
    found = process.wait_for(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", times=len(ports), seconds=START_SECONDS)
    if len(found) < len(ports):
        said = process.last_line()
        process.end()
        raise ClusterError(
            "kubectl could not forward the head's ports",
            where=f"{namespace}/{target}",
            detail=said,
            remedy="Check that you may create pods/portforward in this namespace",
        )
    return process, {int(match[2]): int(match[1]) for match in found}
