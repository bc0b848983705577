"""The phase in which a driver waits for the head of its RayCluster."""

import logging
import time
from datetime import UTC, datetime

from rayworks.cluster.kubernetes import diagnosis
from rayworks.cluster.kubernetes.api import RefusedError
from rayworks.cluster.kubernetes.finding import Finding
from rayworks.cluster.kubernetes.objects import Object, is_ready, progress
from rayworks.cluster.kubernetes.observer import POLL_SECONDS, ClusterObserver, head_of
from rayworks.errors import ClusterError

PROGRESS_SECONDS = 15
"""How often the log says what the driver waits for."""

logger = logging.getLogger(__name__)


def await_head(observer: ClusterObserver, *, seconds: float) -> Object:
    """Wait until the head's pod is ready, and return it.

    Args:
        observer: Of the cluster.
        seconds: How long to wait at most.

    Raises:
        ClusterError: The head cannot become ready, was not ready in time, or its cluster was deleted.
        RefusedError: The API server refuses a request, or still does not respond when that time has passed.
    """
    start, last_progress = time.monotonic(), 0.0
    while True:
        waited = time.monotonic() - start
        try:
            snapshot = observer.snapshot()
        except RefusedError as error:
            if not error.may_pass or waited > seconds:
                raise
            observer.report_silence(error)
            time.sleep(POLL_SECONDS)
            continue
        head = head_of(snapshot)
        if head is not None and is_ready(head):
            logger.info("The Ray head %s is ready after %.0f s", head["metadata"]["name"], waited)
            return head
        findings = observer.report(snapshot)
        for finding in findings:
            if finding.is_final and not finding.part.worker_group:  # of the head, or of the whole cluster
                raise diagnosis.error(finding)
        if waited > seconds:
            raise _late(observer, head, findings, waited)
        if waited - last_progress > PROGRESS_SECONDS:
            last_progress = waited
            logger.info("Waiting for the Ray head of %s for %.0f s: %s", observer.where, waited, _phase(head))
        time.sleep(POLL_SECONDS)


def _late(observer: ClusterObserver, head: Object | None, findings: list[Finding], waited: float) -> ClusterError:
    if findings:
        return diagnosis.error(findings[0])
    return ClusterError(
        f"the Ray head was not ready within {waited:.0f} s",
        where=f"RayCluster {observer.where}",
        detail=_phase(head),
        remedy="Set RAYWORKS_RAY_START_SECONDS higher, or check the head's log",
    )


def _phase(head: Object | None) -> str:
    """Return how far the head's pod is."""
    if head is None:
        return "KubeRay has not created its pod yet"
    return progress(head, datetime.now(UTC))
