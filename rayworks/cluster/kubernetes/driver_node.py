"""The driver's pod as a node of a Ray cluster, without CPUs, so that Ray schedules no tasks that need CPUs on it."""

import os
import sys
import time

from rayworks.cluster import _private
from rayworks.cluster.kubernetes import ray_command
from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

JOIN_SECONDS = 120
"""How long joining may take, with as many attempts as fit: a raylet gives its agents 15 s, too few on a busy node."""


def join(address: str) -> BackgroundProcess:
    """Let this pod join a Ray cluster.

    Args:
        address: Of the head, ``host:port``.

    Returns:
        The process of the node; the node leaves the cluster when the process is ended.

    Raises:
        ClusterError: The pod did not become a node.
    """
    command = [sys.executable, "-m", ray_command.__name__, "start", f"--address={address}"]
    command += ["--num-cpus=0", "--num-gpus=0", "--disable-usage-stats", "--block", "--log-style=record"]
    if ip := os.environ.get("RAYWORKS_POD_IP"):
        command.append(f"--node-ip-address={ip}")
    deadline, message = time.monotonic() + JOIN_SECONDS, ""
    while True:
        node = BackgroundProcess(command)
        if node.wait_for(_private.NODE_STARTED, seconds=deadline - time.monotonic()):
            return node
        message = node.last_line() or message  # the last attempt may have had no time to say anything
        node.end()
        if _private.NODE_TOO_SLOW not in message or time.monotonic() > deadline:
            raise ClusterError(
                "this pod could not join the Ray cluster",
                where=address,
                detail=message,
                remedy="Check that its node is not overloaded, and that NetworkPolicies allow traffic between this pod "
                "and the Ray pods on all ports",
            )
