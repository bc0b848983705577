"""What this room uses of Ray Serve that Ray does not promise. Read in Ray 2.60.

``tests/seams/test_serving_seams.py`` fails when one of these names or behaviours changes.
"""

import time
from typing import Any

HEAD_NODE_RESOURCE = "node:__internal_head__"
"""The custom resource that Ray gives to the head node alone. Ray's own libraries request it to run an actor there; the
name is in ``ray._common.constants``, and there is no public one."""

POLL_SECONDS = 0.05


def http_address() -> tuple[str, int] | None:
    """Return the host and port at which Serve listens on this Ray cluster, or None if Serve is not running.

    Why: the HTTP options of a running Serve cannot be changed, so a second application has to know them, and no public
    function returns them (``serve.status()`` has the proxies' state, without ports).
    """
    from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]

    client = _get_global_client(raise_if_no_controller_running=False)
    return (str(client.http_config.host), client.http_config.port) if client else None


def shut_down(timeout_seconds: float) -> bool:
    """Shut down Serve as ``serve.shutdown`` does, without an error in the terminal.

    Why: ``serve.shutdown`` waits in a call to the controller until the controller exits, and Ray shows on the driver's
    terminal that this call failed: ``(raylet) Task ServeController.graceful_shutdown failed. There are infinite retries
    remaining``. This function requests the shutdown in a call that returns, and waits until the controller is gone.

    The request must not be repeated: while the controller exits, a second one could reach the next controller, which
    has the same name.

    Args:
        timeout_seconds: How long the controller may take to exit.

    Returns:
        Whether the controller exited in time.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve.context import _get_global_client, _set_global_client  # pyright: ignore[reportPrivateUsage]

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return True
    client.shutdown_cached_handles()
    # The client is cached for the whole Ray session (see https://github.com/ray-project/ray/issues/64647): the next
    # Serve of this process would be mistaken for this one.
    _set_global_client(None)
    deadline = time.monotonic() + timeout_seconds
    try:
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.remote(wait=False))
        while time.monotonic() < deadline:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            time.sleep(POLL_SECONDS)
    except (ValueError, RayActorError):  # the controller has exited
        return True
    return False
