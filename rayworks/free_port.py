"""A port for a program that opens it some seconds after it was chosen."""

import contextlib
import secrets
import socket

from rayworks.errors import RayworksError

FIRST, LAST = 25_000, 29_999
"""Not the ports that systems give to whoever names none, as Ray does for most of its own: the chosen one might be given
away before it is opened. Linux takes those from 32768 on, others from 49152; a Ray's workers and clients have 10002 to 24000."""
ATTEMPTS = 100


def free_port() -> int:
    """A port of this machine that nobody listens on now.

    Raises:
        RayworksError: None was found.
    """
    for _ in range(ATTEMPTS):
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)  # not random's: programs with one seed would choose the same
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    remedy = "End some of the programs that listen there"
    raise RayworksError("no free port was found", where=f"ports {FIRST} to {LAST}", remedy=remedy)
