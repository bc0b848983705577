"""The driver's pod as a node of a Ray cluster, without CPUs, so that Ray schedules no tasks that need CPUs on it."""

import json
import os
import sys
import time

from rayworks.cluster import _private
from rayworks.cluster.kubernetes import ray_command
from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.errors import ClusterError

JOIN_SECONDS = 120
"""How long joining may take, with as many attempts as fit: a raylet gives its agents 15 s, too few on a busy node."""


class DriverNode:
    """The node that this pod becomes. Its process imports Ray while this one waits for the cluster's head."""

    def __init__(self) -> None:
        self.process = _start()

    def join(self, address: str) -> None:
        """Let this pod join a Ray cluster, until :meth:`end` is called.

        Args:
            address: Of the head, ``host:port``.

        Raises:
            ClusterError: The pod did not become a node.
        """
        arguments = [f"--address={address}", "--num-cpus=0", "--num-gpus=0", "--disable-usage-stats", "--block"]
        arguments.append("--log-style=record")
        if ip := os.environ.get("RAYWORKS_POD_IP"):
            arguments.append(f"--node-ip-address={ip}")
        # The process may have started before this one knew the token that the cluster wants.
        told = json.dumps({"arguments": arguments, "token": _private.sent_token()})
        deadline, message = time.monotonic() + JOIN_SECONDS, ""
        while True:
            self.process.send_line(told)
            if self.process.wait_for(_private.NODE_STARTED, seconds=deadline - time.monotonic()):
                return
            message = self.process.last_line() or message  # the last attempt may have had no time to say anything
            self.end()
            if _private.NODE_TOO_SLOW not in message or time.monotonic() > deadline:
                raise ClusterError(
                    "this pod could not join the Ray cluster",
                    where=address,
                    detail=message,
                    remedy="Check that its node is not overloaded, and that NetworkPolicies allow traffic between this "
                    "pod and the Ray pods on all ports",
                )
            self.process = _start()

    def end(self) -> None:
        """Leave the cluster. May be called twice, and before this pod has joined one."""
        self.process.end()


def _start() -> BackgroundProcess:
    command = [sys.executable, "-m", ray_command.__name__, ray_command.START_WHEN_TOLD]
    # Stages request no CPU, so they run on this node, one or two at a time.
    return BackgroundProcess(command, _private.IDLE_WORKERS, reads_line=True)
