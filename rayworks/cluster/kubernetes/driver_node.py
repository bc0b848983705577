"""The driver's pod as a node of a Ray cluster, without CPUs, so that Ray schedules no tasks that need CPUs on it."""

import os
import sys
from pathlib import Path

from rayworks.cluster import _private
from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

JOIN_SECONDS = 90


def join(address: str) -> BackgroundProcess:
    """Let this pod join a Ray cluster.

    Args:
        address: Of the head, ``host:port``.

    Returns:
        The process of the node; the node leaves the cluster when the process is ended.

    Raises:
        ClusterError: The pod did not become a node.
    """
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", f"--address={address}", "--num-cpus=0", "--num-gpus=0"]
    command += ["--disable-usage-stats", "--block", "--log-style=record"]
    if ip := os.environ.get("RAYWORKS_POD_IP"):
        command.append(f"--node-ip-address={ip}")
    node = BackgroundProcess(command)
    if not node.wait_for(_private.NODE_STARTED, seconds=JOIN_SECONDS):
        message = node.last_line()
        node.end()
        raise ClusterError(
            "this pod could not join the Ray cluster",
            where=address,
            detail=message,
            remedy="Check that NetworkPolicies allow traffic between this pod and the Ray pods on all ports",
        )
    return node
