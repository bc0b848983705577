"""An existing Ray cluster, named by its address."""

import concurrent.futures
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from rayworks.capacity import Nodes
from rayworks.cluster import _private, out_of_memory, ray_init, tls
from rayworks.cluster.host_and_port import host_and_port
from rayworks.errors import ClusterError

CLIENT_ATTEMPTS = 3
"""How many times to connect to a ``ray://`` address. Each failed attempt takes half a minute."""
CONNECT_SECONDS = 10
"""How long an existing Ray cluster may take to accept a TCP connection."""


class ExistingRay:
    """A Ray cluster that runs already, and that stays when this process disconnects.

    Args:
        address: ``auto`` (this machine is a node of it), ``host:port``, or ``ray://host:port``.
    """

    is_elsewhere = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()
        self._dashboard: str | None = None

    def nodes_to_come(self) -> Nodes | None:
        return None  # this process cannot know

    def why_none_comes(self, requests: Mapping[str, float]) -> str:
        return ""

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        arguments = self._arguments(environment, init_kwargs)
        try:
            if listens_at := host_and_port(_private.resolved(self.address)):
                # If nothing listens there, Ray would retry for minutes.
                socket.create_connection(listens_at, timeout=CONNECT_SECONDS).close()
                if "_credentials" not in init_kwargs:  # Ray's own argument for TLS with other certificates
                    tls.check_handshake(*listens_at, where=self.address, timeout=CONNECT_SECONDS)
            self._authenticate()
            self._dashboard = _connect(arguments)
        except ClusterError:
            raise
        except Exception as error:  # the client also raises plain Exceptions of its server
            message = str(error).strip()
            raise ClusterError(
                "Ray cannot be reached",
                where=self.address,
                detail=message.splitlines()[-1] if message else type(error).__name__,
                remedy="Check that it runs, that the address is right, and that both sides have the same Ray version",
            ) from error

    def _authenticate(self) -> None:
        """Send the token of this machine to a Ray that wants one, unless ``RAY_AUTH_MODE`` says otherwise.

        Raises:
            ClusterError: Ray does not accept the token, or there is none.
        """
        if _private.accepts_this_process(self.address, CONNECT_SECONDS):
            return
        mode, has_token = os.environ.get("RAY_AUTH_MODE"), _private.has_token()
        if mode is None and has_token:
            _private.send_token()
            if _private.accepts_this_process(self.address, CONNECT_SECONDS):
                return
        if mode not in (None, "token"):
            detail, remedy = f"RAY_AUTH_MODE is {mode}", "Unset RAY_AUTH_MODE"
        else:
            detail = "it does not accept the token of this machine" if has_token else "this machine has none"
            remedy = (
                "Set RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head, or write that to ~/.ray/auth_token"
            )
        raise ClusterError("Ray wants a token", where=self.address, detail=detail, remedy=remedy)

    def _arguments(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of ``ray.init``."""
        runtime_env = dict(init_kwargs.get("runtime_env") or {})
        is_node_address = host_and_port(self.address) and not self.address.startswith("ray://")
        runtime_env["env_vars"] = {
            **_private.OOM_RETRIES,
            **(_private.cluster_address(self.address) if is_node_address else {}),
            **environment,
            **runtime_env.get("env_vars", {}),
        }
        return {"logging_level": "WARNING", **init_kwargs, "address": self.address, "runtime_env": runtime_env}

    def release(self) -> None:
        import ray

        ray.shutdown()  # ends this process's job with its tasks, actors and workers

    def dashboard(self) -> str | None:
        return self._dashboard

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        return out_of_memory.explain(task, str(error))


def _connect(arguments: Mapping[str, Any]) -> str | None:
    """Connect, and try again where the proxy behind ``ray://`` failed; return the URL of the dashboard.

    The proxy forks a process for each client beside gRPC's threads. Sometimes that process dies before it starts:
    ``ray_client_server.err`` has the reason, the process's own log is empty.
    """
    for _ in range(CLIENT_ATTEMPTS - 1):
        with contextlib.suppress(ConnectionAbortedError):
            return ray_init.connect(arguments, environment=_private.OOM_RETRIES)
    return ray_init.connect(arguments, environment=_private.OOM_RETRIES)
