"""The phase in which a driver works on its RayCluster: a thread watches it."""

import concurrent.futures
import logging
import threading
import time

from rayworks.cluster.kubernetes import diagnosis
from rayworks.cluster.kubernetes.api import RefusedError
from rayworks.cluster.kubernetes.finding import Snapshot
from rayworks.cluster.kubernetes.objects import (
    Object,
    conditions,
    is_being_deleted,
    is_ready,
    ray_container,
    reference,
    worker_group,
)
from rayworks.cluster.kubernetes.observer import POLL_SECONDS, ClusterObserver, head_of
from rayworks.errors import ClusterError, ClusterLostError

LOST_SECONDS = 20
"""How long the head may be unready before the cluster counts as lost."""
STOP_SECONDS = 10

logger = logging.getLogger(__name__)


class Watch:
    """Ends the wait for work on a cluster when the cluster is lost, with the reason.

    Args:
        observer: Of the cluster.
        head: The head's pod that this driver is connected to.
        lost: Gets the reason.
    """

    def __init__(
        self, observer: ClusterObserver, head: Object, lost: "concurrent.futures.Future[ClusterError]"
    ) -> None:
        self._observer, self._head, self._lost = observer, head, lost
        self._unready_since: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rayworks-cluster", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                reason = self._loss(self._observer.snapshot())
            except ClusterLostError as error:
                reason = error
            except RefusedError as error:  # the API server restarts, or is unreachable; Ray may go on
                self._observer.report_silence(error)
                continue
            except Exception:  # without this thread, the loss of the cluster would not be noticed
                logger.exception("The state of the cluster could not be examined")
                continue
            if reason is not None:
                self._lost.set_result(reason)
                return

    def _loss(self, snapshot: Snapshot) -> ClusterError | None:
        """Return why the cluster is lost, or cannot get the workers that it needs; None if it works."""
        head, now = head_of(snapshot), time.monotonic()
        self._unready_since = None if head and _ray_is_ready(head) else self._unready_since or now
        is_late = self._unready_since is not None and now - self._unready_since > LOST_SECONDS
        if is_late or _is_replaced(self._head, head):
            return ClusterLostError(
                "the Ray head is lost",
                where=reference("Pod", self._head),
                detail=_reason(head),
                remedy="Run again: finished stages are reused",
            )
        ready_groups = {worker_group(pod) for pod in snapshot.pods if is_ready(pod)}  # "" for the head
        findings = self._observer.report(snapshot)
        if ready_groups - {""}:
            # The run makes progress: the autoscaler also asks for groups that would only help. A worker that is idle is
            # deleted soon, so a task that only a missing group can run still ends the run.
            return None
        for finding in findings:
            if finding.is_final and not finding.part.is_head and finding.part.worker_group not in ready_groups:
                return diagnosis.error(finding)
        return None


def _is_replaced(before: Object, head: Object | None) -> bool:
    """Return whether the head that the driver is connected to no longer exists, or has restarted without its memory."""
    if head is None or head["metadata"]["uid"] != before["metadata"]["uid"] or is_being_deleted(head):
        return True
    return _restarts(head) != _restarts(before) or head["status"].get("phase") in ("Failed", "Succeeded")


def _restarts(pod: Object) -> int:
    return ray_container(pod).get("restartCount", 0)


def _ray_is_ready(head: Object) -> bool:
    """Return whether a head is ready, apart from containers beside Ray's.

    Where its node does not respond, the containers stay ready, and the condition has no reason.
    """
    only_for_containers = conditions(head).get("Ready", {}).get("reason") == "ContainersNotReady"
    return is_ready(head) or (only_for_containers and ray_container(head).get("ready", False))


def _reason(head: Object | None) -> str:
    """Return why a head is lost, as far as Kubernetes tells."""
    if head is None:
        return "its pod was deleted"
    status = head["status"]
    container = ray_container(head)
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if ended := state.get("terminated"):
            return f"container {container['name']} ended: {ended.get('reason')}, exit code {ended.get('exitCode')}"
    if reason := status.get("reason"):
        return f"{reason}: {status.get('message', '')}"
    if is_being_deleted(head):
        return "its pod is being deleted"
    ready = conditions(head).get("Ready", {})
    message = str(ready.get("message") or ready.get("reason") or "")
    return message or "it is not ready, and Kubernetes gives no reason: its node may not respond"
