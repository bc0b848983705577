"""A free port for a program that opens it a few seconds later."""

import contextlib
import secrets
import socket

from rayworks.errors import RayworksError

FIRST, LAST = 25_000, 29_999
"""Outside the ephemeral range, from which the system assigns ports to programs that do not name one, as Ray does: the
chosen port could be assigned before it is opened. Linux assigns ports from 32768, other systems from 49152;
Ray's workers and clients use 10002 to 24000."""
ATTEMPTS = 100


def free_port() -> int:
    """Return a port of this machine on which no program listens.

    Raises:
        RayworksError: No free port was found.
    """
    for _ in range(ATTEMPTS):
        port = FIRST + secrets.randbelow(
            LAST - FIRST + 1
        )  # not random: programs with the same seed would choose the same port
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    remedy = "Stop some of the programs that listen there"
    raise RayworksError("no free port was found", where=f"ports {FIRST} to {LAST}", remedy=remedy)
