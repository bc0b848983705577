"""A driver's view of its RayCluster through the Kubernetes API."""

import logging
from collections import defaultdict
from datetime import UTC, datetime

from rayworks.cluster.kubernetes import diagnosis
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.conditions import Condition
from rayworks.cluster.kubernetes.finding import Finding, Part, Snapshot
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER
from rayworks.cluster.kubernetes.objects import Object, is_head, is_ready, pod_selector
from rayworks.errors import ClusterLostError

POLL_SECONDS = 2
"""Between two snapshots, or two attempts."""

logger = logging.getLogger(__name__)


class ClusterObserver:
    """Takes snapshots of a RayCluster, and logs what is wrong with it.

    Args:
        api: Of its namespace.
        name: Its name.
        uid: Its UID: another cluster of the same name is not it.
    """

    def __init__(self, api: KubernetesApi, name: str, uid: str) -> None:
        self.where = f"{api.namespace}/{name}"
        self._api, self._name, self._uid = api, name, uid
        self._logged: set[tuple[str, str]] = set()
        self._is_silent = False

    def snapshot(self, *, complete: bool = False) -> Snapshot:
        """Return the present state.

        Args:
            complete: Include events and nodes even if all pods are ready, and nothing needs an explanation.

        Raises:
            ClusterLostError: The cluster was deleted.
            RefusedError: The API server does not respond, or refuses a request.
        """
        cluster = self._api.get(RAYCLUSTER, self._name)
        if cluster is None or cluster["metadata"]["uid"] != self._uid:
            raise ClusterLostError("the RayCluster was deleted", where=self.where, remedy="Run again")
        pods = tuple(self._api.pods(labels=pod_selector(self._name)))
        is_enough = not complete and pods and all(is_ready(pod) for pod in pods)
        more = () if is_enough else (tuple(self._api.events()), tuple(self._api.nodes()))
        self._is_silent = False
        return Snapshot(cluster, pods, *more)

    def report_silence(self, error: RefusedError) -> None:
        """Log that the API server gave no snapshot, once until it gives one."""
        if not self._is_silent:
            logger.warning("The Kubernetes API does not report the state of the cluster: %s", error)
        self._is_silent = True

    def report(self, snapshot: Snapshot) -> list[Finding]:
        """Return what keeps the cluster from running, and log what was not logged yet."""
        findings = diagnosis.findings(snapshot, datetime.now(UTC))
        new = [finding for finding in findings if (finding.object, finding.condition) not in self._logged]
        self._logged |= {(finding.object, finding.condition) for finding in new}
        alike: defaultdict[tuple[Part, Condition], list[Finding]] = defaultdict(list)
        for finding in new:
            alike[finding.part, finding.condition].append(finding)
        for first, *others in alike.values():
            more = f" So it is with {len(others)} more." if others else ""
            logger.warning("%s%s", diagnosis.error(first), more)
        return findings


def head_of(snapshot: Snapshot) -> Object | None:
    """Return the head's pod, if it exists."""
    return next((pod for pod in snapshot.pods if is_head(pod)), None)
