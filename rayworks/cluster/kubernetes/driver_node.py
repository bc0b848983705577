"""The driver's pod as a node of a Ray cluster: without CPUs, so that no work lands on it."""

import os
import sys
from pathlib import Path

from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

JOIN_SECONDS = 90


def join(address: str) -> BackgroundProcess:
    """Let this pod join the Ray cluster whose head is at ``address`` (``host:port``); it leaves when the process is ended.

    Raises:
        ClusterError: It did not become a node.
    """
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", f"--address={address}", "--num-cpus=0", "--num-gpus=0"),
        *("--disable-usage-stats", "--block", "--log-style=record"),
    ]
    if ip := os.environ.get("RAYWORKS_POD_IP"):
        command.append(f"--node-ip-address={ip}")
    node = BackgroundProcess(command)
    if not node.wait_for("Ray runtime started", seconds=JOIN_SECONDS):
        said = node.last_line()
        node.end()
        raise ClusterError(
            "this pod could not join the Ray cluster",
            where=address,
            detail=said,
            remedy="Check that NetworkPolicies let this pod and the Ray pods reach each other on all ports",
        )
    return node
