"""Whether this process can speak TLS with a Ray. ``ray.init`` would try for a minute, and not say what is wrong.

Ray reads the variables below, and each side shows a certificate:
https://docs.ray.io/en/latest/ray-core/configure.html#tls-authentication
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from rayworks.errors import ClusterError

SWITCH = "RAY_USE_TLS"
CERTIFICATE, KEY, AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"
REMEDY = (
    f"Set {SWITCH} to 1, {CERTIFICATE} and {KEY} to a certificate of the cluster's authority and its key, "
    f"and {AUTHORITY} to the certificate of that authority"
)


def is_on(environment: Mapping[str, str]) -> bool:
    """Return whether Ray uses TLS in a process that has these environment variables."""
    return environment.get(SWITCH, "0").lower() in ("1", "true")


def check_own_certificate(where: str, *, ip: str | None) -> None:
    """Check that this process has what a Ray that uses TLS wants of it.

    Args:
        where: The Ray, as a message names it.
        ip: The address at which other nodes reach this one; None if this process will be no node.

    Raises:
        ClusterError: This process does not use TLS, lacks a file, or its certificate is not valid for it.
    """
    problem = "" if is_on(os.environ) else f"{SWITCH} is not set here"
    for name in (CERTIFICATE, KEY, AUTHORITY):
        path = os.environ.get(name)
        if not problem and (path is None or not Path(path).is_file()):
            problem = f"{name} is not set here" if path is None else f"{name} is {path}, which is no file here"
    if problem:
        raise ClusterError("Ray wants TLS", where=where, detail=problem, remedy=REMEDY)
    try:
        _shake_hands_with_itself(ip)
    except OSError as error:
        raise ClusterError(
            "the certificate of this process is not valid",
            where=os.environ[CERTIFICATE],
            detail=_reason(error),
            remedy=f"Make one with {KEY} that the authority in {AUTHORITY} signs"
            + (f", and that names the address {ip} of this node" if ip else ""),
        ) from error


def check_handshake(host: str, port: int, *, where: str, timeout: float) -> None:
    """Check that a Ray and this process accept each other's certificates, or that neither uses TLS.

    Args:
        host: Of the Ray.
        port: Of its GCS, or of its Ray Client server.
        where: The Ray, as a message names it.
        timeout: In seconds.

    Raises:
        ClusterError: One of them uses TLS alone, or refuses the other's certificate.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    if _handshake_error(anybody, host, port, timeout) is not None:
        if is_on(os.environ):
            remedy = f"Unset {SWITCH} here, or set it for the cluster as well"
            raise ClusterError("Ray uses no TLS, but this process does", where=where, remedy=remedy)
        return
    check_own_certificate(where, ip=None)
    if error := _handshake_error(_as_client(), host, port, timeout):
        raise ClusterError(
            "Ray and this process do not accept each other's certificates",
            where=where,
            detail=_reason(error),
            remedy=f"Check that one authority ({AUTHORITY}) signed both, and that Ray's certificate names {host}",
        )


def _as_client() -> ssl.SSLContext:
    # create_default_context() is stricter than gRPC since Python 3.13.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(os.environ[AUTHORITY])
    context.load_cert_chain(os.environ[CERTIFICATE], os.environ[KEY])
    return context


def _handshake_error(context: ssl.SSLContext, host: str, port: int, timeout: float) -> OSError | None:
    """Return why a handshake with a gRPC server failed; None if it did not."""
    context.set_alpn_protocols(["h2"])  # gRPC wants it
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as encrypted,
        ):
            # Since TLS 1.3 a server reads the certificate of its client after the handshake. gRPC's speaks first.
            if context.verify_mode is ssl.CERT_REQUIRED and not encrypted.recv(1):
                return OSError(f"Ray refuses the certificate {os.environ[CERTIFICATE]}")
    except OSError as error:
        return error
    return None


def _shake_hands_with_itself(ip: str | None) -> None:
    """Verify the certificate of this process as its peers will. No socket is opened."""
    as_client, as_server = _as_client(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    as_server.load_cert_chain(os.environ[CERTIFICATE], os.environ[KEY])
    as_client.check_hostname = ip is not None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = as_client.wrap_bio(to_client, to_server, server_hostname=ip)
    server = as_server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


def _reason(error: OSError) -> str:
    return getattr(error, "verify_message", "") or str(error)
