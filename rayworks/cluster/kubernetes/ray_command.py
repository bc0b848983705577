"""The command ``ray`` as pods run it: it needs a third of the processor time to start, and gives a node more time.

A driver's pod runs it as ``python -m rayworks.cluster.kubernetes.ray_command``. The image has it in place of Ray's own,
so that KubeRay runs it in the pods of a RayCluster.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Sequence

from rayworks.cluster import _private as ray_internals
from rayworks.cluster.host_and_port import host_and_port
from rayworks.cluster.kubernetes import _private

START_WHEN_TOLD = "start-when-told"
"""``ray start`` with the ``arguments`` and ``token`` that a line of its input names, as JSON. It imports Ray first."""
START_SECONDS = 120
"""How long the node of ``ray start`` may take to start, as long as its raylet runs. Ray ends it after 30 s."""
HEALTH_SECONDS = 60
"""How long ``ray health-check`` waits for the head, as Ray's own does. KubeRay repeats it every five seconds."""
POLL_SECONDS = 0.2
WITHOUT_CLIENT_SERVER = "RAYWORKS_WITHOUT_CLIENT_SERVER"
"""The variable by which a head learns that no driver comes by ``ray://``: one more process of Python otherwise."""


def main() -> None:
    """Run the command that the arguments of this process name."""
    arguments = sys.argv[1:]
    if head := head_to_wait_for(arguments):
        host, port = head
        sys.exit(None if listens(host, port, HEALTH_SECONDS) else f"The Ray head {host}:{port} does not listen.")
    if arguments == [START_WHEN_TOLD]:
        _private.import_ray_command("start")
        line = sys.stdin.readline()
        if not line:  # whoever would have told it needs no node, or has ended
            return
        told = json.loads(line)
        if told["token"]:
            ray_internals.use_token(told["token"])
        arguments = ["start", *told["arguments"]]
    has_client_server = WITHOUT_CLIENT_SERVER not in os.environ
    _private.ray_command(arguments, seconds=START_SECONDS, has_client_server=has_client_server)


def head_to_wait_for(arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return host and port of the head if the command does no more than wait for it, else None.

    KubeRay's init container of a worker, and Ray's autoscaler, run ``ray health-check`` until it succeeds. To import
    Ray takes up to three seconds of a processor, of which that container gets a fifth: most of the time that a worker
    took to start.
    """
    match arguments:
        case ["health-check", "--address", address, *others] if set(others) <= {"--skip-version-check"}:
            return host_and_port(address)
        case _:
            return None


def listens(host: str, port: int, seconds: float) -> bool:
    """Return whether a port accepts a connection within so many seconds.

    A head listens once it has loaded all that it had stored (``GcsServer::DoStart``). What else Ray's own command
    checks, the version, ``ray start`` checks again.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
        except OSError:  # not yet, or its name is not known yet
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


if __name__ == "__main__":
    main()
