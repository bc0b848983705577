"""Why Ray pods do not run on Kubernetes, or why a task ran out of memory there. Pure: API objects in, findings out."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import get_args

from rayworks.cluster import out_of_memory as memory
from rayworks.cluster.kubernetes import pod_rules, raycluster_rules
from rayworks.cluster.kubernetes.conditions import EXPLAINED, REFUSALS, Condition, first_match
from rayworks.cluster.kubernetes.finding import Finding, Snapshot, about_pod
from rayworks.cluster.kubernetes.objects import Object
from rayworks.errors import ClusterError
from rayworks.ray_error import memory_report

OWNER_RULES: dict[str, Callable[[Snapshot, datetime], Iterator[Finding]]] = {"RayCluster": raycluster_rules.check}
"""For each kind of object that owns Ray pods, what its own status and events tell."""


def findings(snapshot: Snapshot, now: datetime) -> list[Finding]:
    """Return all that keeps Ray from running: what is final first, then the head before the workers, then the worst.

    Args:
        snapshot: The owner of the pods, and what Kubernetes shows of it.
        now: The time of the snapshot.
    """
    of_pods = [pod_rules.check(pod, snapshot, now) for pod in snapshot.pods]
    of_all = [*OWNER_RULES[snapshot.kind](snapshot, now), *(finding for finding in of_pods if finding)]
    rank = get_args(Condition).index
    return sorted(of_all, key=lambda finding: (not finding.is_final, not finding.part.is_head, rank(finding.condition)))


def error(finding: Finding) -> ClusterError:
    """Return a finding as a failure."""
    clause, _ = EXPLAINED[finding.condition]
    return ClusterError(
        f"{finding.part.subject} {clause}",
        where=finding.object,
        detail=f"{finding.condition}: {finding.detail}",
        remedy=finding.remedy,
    )


def refusal(status: int, body: Object, where: str, *, kind: str = "RayCluster") -> ClusterError:
    """Return the response of an API server that refused a request as a failure.

    Args:
        status: HTTP status; 0 if there was no response.
        body: The API's Status object.
        where: The request or object, ending with ``namespace/name`` or the namespace.
        kind: The kind of object that the request is about.
    """
    detail = str(body.get("message") or body.get("reason") or f"status {status}").strip()
    namespace = where.rpartition(" ")[2].partition("/")[0]
    what, remedy = _refusal(status, detail, namespace, kind)
    return ClusterError(what, where=where, detail=detail, remedy=remedy)


def _refusal(status: int, message: str, namespace: str, kind: str) -> tuple[str, str]:
    """Return what is wrong, and what to do."""
    if status == 401:
        return (
            "the Kubernetes API does not accept the credentials",
            "Renew the credentials of the kubeconfig or the service account",
        )
    if status == 404 and "namespaces" in message:
        return "the namespace does not exist", f"Create it: kubectl create namespace {namespace}"
    if status == 404:
        return (
            "KubeRay is not installed in this Kubernetes cluster",
            "Install the KubeRay operator with its custom resource definitions, "
            "for example with its Helm chart kuberay-operator",
        )
    if status == 409:
        return f"the {kind} already exists", "Choose another name, or delete it first"
    if "being terminated" in message:
        return "the namespace is being deleted", "Use another namespace, or create it again once it is deleted"
    if status in (400, 403, 422) or "webhook" in message:
        condition = first_match(REFUSALS, message)
        clause, remedy = EXPLAINED[condition]
        what = "the account lacks a permission" if condition == "Forbidden" else f"the {kind} {clause}"
        return what, remedy.format(namespace=namespace)
    return (
        "the Kubernetes API does not work",
        "Try again; if the error persists, ask the administrators of this Kubernetes cluster",
    )


def out_of_memory(task: str, message: str, snapshot: Snapshot | None, now: datetime) -> ClusterError | None:
    """Return the failure of a task that ran out of memory; None if it failed for another reason.

    Ray ends a worker process when its pod runs out of memory, and reports it. When Ray is too slow, the kernel ends
    processes or the whole container, and only Kubernetes may know.

    Args:
        task: Name of the task.
        message: The error message that Ray gave.
        snapshot: The cluster; None if Kubernetes does not respond.
        now: The time of the snapshot.
    """
    report = memory_report(message)
    if report is None:
        known = findings(snapshot, now) if snapshot else []
        finding = next((finding for finding in known if finding.condition == "OutOfMemory"), None)
        return memory.failure(task, finding.object, finding.detail, finding.remedy) if finding else None
    if snapshot and report.node_ip:
        for pod in snapshot.pods:
            if pod["status"].get("podIP") == report.node_ip:
                finding = about_pod(pod, snapshot.kind, "OutOfMemory", report.detail, is_final=False)
                return memory.failure(task, finding.object, finding.detail, finding.remedy)
    return memory.explain(task, message)
