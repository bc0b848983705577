"""Why a RayCluster does not come up, or why a task of it ran out of memory. Pure: what Kubernetes says in, findings out.

Objects are plain dicts with the API's own names (camelCase), as ``kubectl get -o json`` prints them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

from rayworks.cluster import _private
from rayworks.cluster import out_of_memory as memory
from rayworks.errors import ClusterError

Object = dict[str, Any]

Condition = Literal[
    "Forbidden",
    "AdmissionRefused",
    "InvalidManifest",
    "QuotaExceeded",
    "ImageNotFound",
    "ConfigMissing",
    "OutOfMemory",
    "CrashLoop",
    "UntoleratedTaint",
    "UnmatchedAffinity",
    "TooLarge",
    "VolumeUnbound",
    "OperatorSilent",
    "WebhookUnreachable",
    "ImageUnreachable",
    "NodeLost",
    "Evicted",
    "UnreadyProbe",
    "NotStarted",
    "NoRoom",
    "Queued",
]
"""What can be wrong, the worst first."""

EXPLAINED: dict[Condition, tuple[str, str]] = {
    "Forbidden": (
        "may not be created by this account",
        "Grant the account that verb on that resource, by a Role and a RoleBinding in the namespace",
    ),
    "AdmissionRefused": (
        "is refused by the rules of the namespace",
        "Change the manifest so that it meets the rule, or ask who set the rule for an exception",
    ),
    "InvalidManifest": ("has an invalid manifest", "Correct that field in the manifest"),
    "QuotaExceeded": (
        "exceeds the quota of the namespace",
        "Lower the requests or the replicas in the manifest, or have the quota raised: kubectl describe quota -n {namespace}",
    ),
    "ImageNotFound": (
        "has an image that cannot be pulled",
        "Check the image's name and tag, that it was pushed, and the imagePullSecrets",
    ),
    "ConfigMissing": (
        "refers to something that is not there",
        "Create it in namespace {namespace}, or correct its name in the manifest",
    ),
    "OutOfMemory": (
        "ran out of memory",
        "Raise the memory request and limit of {part} in the manifest, and say what the task needs by @resources(memory=...)",
    ),
    "CrashLoop": (
        "ends as soon as it starts",
        "Read why: kubectl logs -n {namespace} {name} -c {container} --previous",
    ),
    "UntoleratedTaint": (
        "does not tolerate the taints of the nodes",
        "Add a toleration for the taint to the pod template of {part}, and check its nodeSelector and affinity",
    ),
    "UnmatchedAffinity": (
        "matches no node",
        "Correct nodeSelector and affinity in the pod template of {part}, or label a node accordingly",
    ),
    "TooLarge": (
        "asks for more than any node has",
        "Lower the requests of {part} below what a node has, or add larger nodes",
    ),
    "VolumeUnbound": (
        "waits for a volume",
        "Check the claim and its storage class: kubectl describe pvc -n {namespace}",
    ),
    "OperatorSilent": (
        "is not taken up by the KubeRay operator",
        "Check that it runs and watches namespace {namespace}: kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator",
    ),
    "WebhookUnreachable": (
        "cannot be checked by an admission webhook",
        "Have the service behind the webhook restarted, or its configuration removed",
    ),
    "ImageUnreachable": (
        "has an image whose registry does not answer",
        "Check the registry's address, and that the nodes reach it",
    ),
    "NodeLost": ("is on a node that does not answer", "Have the node repaired, or delete it so that its pods move"),
    "Evicted": (
        "was evicted from its node",
        "Raise what it ran out of in the pod template of {part}, or its priorityClassName",
    ),
    "UnreadyProbe": (
        "does not become ready",
        "Read why: kubectl logs -n {namespace} {name} -c {container}; if it is only slow, give it more CPU, or the probe more time",
    ),
    "NotStarted": ("has not started", "See what its node says: kubectl describe pod -n {namespace} {name}"),
    "NoRoom": ("finds no node with room", "Wait until others end, lower the requests of {part}, or add nodes"),
    "Queued": ("is held back", "See what holds it: spec.suspend, scheduling gates, or the queue that admits it"),
}
"""Of each condition the clause that follows who it is about, and the remedy."""

REFUSALS: tuple[tuple[str, Condition], ...] = (
    (r"exceeded quota", "QuotaExceeded"),
    (r"failed quota|violates PodSecurity|denied (the )?request", "AdmissionRefused"),
    (r"failed calling webhook", "WebhookUnreachable"),
    (r"error looking up|\" not found", "ConfigMissing"),
    (r"User \".*\" cannot", "Forbidden"),
    (r"is forbidden", "AdmissionRefused"),
    (r"", "InvalidManifest"),
)
"""Why the API server refuses an object. Of this table and those below, the first row that matches the words decides."""

PULL_FAILURES: tuple[tuple[str, Condition], ...] = (
    (
        r"connection re(fused|set)|no such host|timeout|timed out|unreachable|toomanyrequests|x509|EOF",
        "ImageUnreachable",
    ),
    (r"", "ImageNotFound"),
)
PASSING_TAINT = r"node\.kubernetes\.io/|node\.cloudprovider\.kubernetes\.io/|ClusterAutoscaler"
"""Taints that Kubernetes sets, and takes away when the node is well again."""
UNSCHEDULABLE: tuple[tuple[str, Condition], ...] = (
    (rf"untolerated taint.*({PASSING_TAINT})", "NoRoom"),
    (r"untolerated taint", "UntoleratedTaint"),
    (r"node affinity/selector", "UnmatchedAffinity"),
    (r"(?i)persistentvolume|volume", "VolumeUnbound"),
    (r"", "NoRoom"),
)

AUTOSCALER_SECONDS = 40
"""How long a node autoscaler may take to announce a node before a pod that fits none of the present is given up."""
IMAGE_SECONDS = 15
"""How long an image may be missing: it may be pushed just now."""
MISSING_SECONDS = 30
"""How long what a pod refers to may be missing: it may be applied just behind the cluster."""
SLOW_SECONDS = 30
"""How long a pod may take to start, and Ray to answer probes, before a warning of Kubernetes is told."""
OPERATOR_SECONDS, OPERATOR_GIVEN_UP_SECONDS = 15, 45
"""How long KubeRay may leave a RayCluster without a status; one that restarts takes about half a minute."""
RESTARTS = 2
"""A container that ended after so many restarts is given up."""
RECENT_SECONDS = 300
"""How long a pod that runs again is told to have run out of memory or to be evicted."""


@dataclass(frozen=True)
class Snapshot:
    """What Kubernetes says of a RayCluster at one moment."""

    cluster: Object
    pods: tuple[Object, ...] = ()
    """Those with the label ``ray.io/cluster=<name>``."""
    events: tuple[Object, ...] = ()
    """Core/v1 events of the namespace; those about other objects do no harm."""
    nodes: tuple[Object, ...] = ()
    """All nodes, where the account may read them: since Kubernetes 1.34 the scheduler does not name the taints."""


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a RayCluster, or a pod of it, from running."""

    object: str
    """``Pod namespace/name`` or ``RayCluster namespace/name``."""
    condition: Condition
    detail: str
    """Kubernetes' own words."""
    remedy: str
    is_final: bool
    """It does not resolve itself: waiting is in vain."""
    is_head: bool = False
    group: str = ""
    """The worker group, when it is about one."""


def findings(snapshot: Snapshot, now: datetime) -> list[Finding]:
    """All that keeps the cluster from running: what is final before what may pass, the head before workers."""
    found = [
        *_of_cluster(snapshot, now),
        *(finding for pod in snapshot.pods for finding in _of_pod(pod, snapshot, now)),
    ]
    rank = get_args(Condition).index
    return sorted(found, key=lambda one: (not one.is_final, not one.is_head, rank(one.condition)))


def error(finding: Finding) -> ClusterError:
    """The failure that a finding is."""
    who = (
        "the Ray head"
        if finding.is_head
        else f"a Ray worker of group {finding.group}"
        if finding.group
        else "the RayCluster"
    )
    said = f"{finding.condition}: {finding.detail}"
    return ClusterError(
        f"{who} {EXPLAINED[finding.condition][0]}", where=finding.object, detail=said, remedy=finding.remedy
    )


def refusal(status: int, body: Object, where: str) -> ClusterError:
    """The failure that the API server's answer to a request for a RayCluster is; ``body`` is its Status object."""
    said = str(body.get("message") or body.get("reason") or f"status {status}").strip()
    namespace = where.rpartition(" ")[2].partition("/")[0]
    what, remedy = "", ""
    if status == 401:
        what, remedy = (
            "the Kubernetes API does not accept the credentials",
            "Renew those of the kubeconfig or service account",
        )
    elif status == 404 and "namespaces" in said:
        what, remedy = "the namespace does not exist", f"Create it: kubectl create namespace {namespace}"
    elif status == 404:
        what = "KubeRay is not installed in this Kubernetes"
        remedy = "Install the KubeRay operator with its custom resource definitions, for example by its Helm chart kuberay-operator"
    elif status == 409:
        what, remedy = "the RayCluster exists already", "Choose another name, or delete it first"
    elif "being terminated" in said:
        what, remedy = "the namespace is being deleted", "Use another namespace, or wait and create it anew"
    elif status in (400, 403, 422) or "webhook" in said:
        condition = _first(REFUSALS, said)
        clause, remedy = EXPLAINED[condition]
        what = "the account lacks a permission" if condition == "Forbidden" else f"the RayCluster {clause}"
        remedy = remedy.format(namespace=namespace)
    else:
        what, remedy = "the Kubernetes API does not work", "Try again; when it stays so, ask who runs this Kubernetes"
    return ClusterError(what, where=where, detail=said, remedy=remedy)


def out_of_memory(task: str, message: str, snapshot: Snapshot | None, now: datetime) -> ClusterError | None:
    """Return the failure of a task that ran out of memory; None if it failed for another reason.

    Ray ends a worker process when its pod runs out of memory, and reports it. When Ray is too slow, the kernel ends
    processes or the whole container, and only Kubernetes may know.

    Args:
        task: Name of the task.
        message: The error message that Ray gave.
        snapshot: The cluster, as far as Kubernetes tells.
        now: The time of the snapshot.
    """
    if report := _private.memory_report(message):
        pods = snapshot.pods if snapshot and report.node_ip else ()
        pod = next((pod for pod in pods if pod["status"].get("podIP") == report.node_ip), None)
        if pod is None:
            return memory.explain(task, message)
        finding = _pod_finding(pod, "OutOfMemory", report.detail, False)
    else:
        known = findings(snapshot, now) if snapshot else []
        finding = next((finding for finding in known if finding.condition == "OutOfMemory"), None)
        if finding is None:
            return None
    return memory.failure(task, finding.object, finding.detail, finding.remedy)


# --- what is said of the RayCluster ------------------------------------------------------------------------------


def _of_cluster(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    cluster, status = snapshot.cluster, snapshot.cluster.get("status") or {}
    events = _events_of(cluster, snapshot.events)
    conditions = _conditions(status)

    def finding(condition: Condition, said: str, is_final: bool, is_head: bool = False, group: str = "") -> Finding:
        remedy = _remedy(condition, cluster, _part(is_head, group))
        return Finding(_name("RayCluster", cluster), condition, said, remedy, is_final, is_head, group)

    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":  # a pod could not even be created
        said = failure["message"].removeprefix(f"{failure['reason']}\n")
        condition = _first(REFUSALS, said)
        is_final = {
            "QuotaExceeded": not _fits_quota_later(said, snapshot.pods),
            "WebhookUnreachable": False,
            "ConfigMissing": _age(failure["lastTransitionTime"], now) >= MISSING_SECONDS,
        }.get(condition, True)
        is_head = "Head" in failure["reason"]
        yield finding(condition, said, is_final, is_head, "" if is_head else _group_in(said, cluster))

    if cluster["spec"].get("suspend"):
        yield finding(
            "Queued", conditions.get("RayClusterProvisioned", {}).get("message") or "spec.suspend is true", False
        )
    elif not status.get("conditions"):
        age = _age(cluster["metadata"]["creationTimestamp"], now)
        invalid = [event["message"] for event in events if event["reason"].startswith("InvalidRayCluster")]
        if invalid:
            yield finding("InvalidManifest", invalid[-1], True)
        elif age >= OPERATOR_SECONDS:
            yield finding(
                "OperatorSilent", f"no status {age:.0f} s after its creation", age >= OPERATOR_GIVEN_UP_SECONDS
            )

    yield from _of_replaced_pods(snapshot, now)


def _of_replaced_pods(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Of pods that are gone: KubeRay replaces one that ended and has restartPolicy Never, or was evicted."""
    cluster, name = snapshot.cluster, snapshot.cluster["metadata"]["name"]
    recent = [event for event in snapshot.events if _age(_last(event), now) < RECENT_SECONDS]
    deleted = [
        event for event in _events_of(cluster, recent) if event["reason"] in ("DeletedHeadPod", "DeletedWorkerPod")
    ]
    ended = [event for event in deleted if re.search(r"restart policy: Never.*ExitCode:[1-9]", event["message"])]
    times = sum(int(event.get("count") or 1) for event in ended)
    if ended and (said := ended[-1]["message"]):
        condition: Condition = "OutOfMemory" if "Reason:OOMKilled" in said else "CrashLoop"
        is_head = ended[-1]["reason"] == "DeletedHeadPod"
        group = "" if is_head else _group_in(said, cluster)
        others = [
            pod for pod in snapshot.pods if pod["metadata"]["labels"].get("ray.io/group") == group and not is_head
        ]
        runs = any(_conditions(pod["status"]).get("Ready", {}).get("status") == "True" for pod in others)
        remedy = (
            f"Read why while one runs: kubectl logs -n {cluster['metadata']['namespace']} -l ray.io/cluster={name} -f"
        )
        if condition == "OutOfMemory":
            remedy = _remedy(condition, cluster, _part(is_head, group))
        yield Finding(
            _name("RayCluster", cluster), condition, said, remedy, times > RESTARTS and not runs, is_head, group
        )

    present = {pod["metadata"]["name"] for pod in snapshot.pods}
    for event in recent:
        about = event["involvedObject"]
        if event["reason"] == "Evicted" and about["name"].startswith(f"{name}-") and about["name"] not in present:
            is_head, group = f"{name}-head-" in about["name"], _group_in(about["name"], cluster)
            remedy = _remedy("Evicted", cluster, _part(is_head, group))
            yield Finding(
                f"Pod {about['namespace']}/{about['name']}", "Evicted", event["message"], remedy, False, is_head, group
            )


# --- what is said of a pod ---------------------------------------------------------------------------------------


def _of_pod(pod: Object, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """At most one finding: the nearest to the cause."""
    status, conditions = pod["status"], _conditions(pod["status"])
    events = _events_of(pod, snapshot.events)
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {}).get("reason", "")

    silent = ready.get("status") == "False" and (
        (conditions.get("ContainersReady", {}).get("status") == "True" and not ready.get("reason"))
        or (bool(events) and events[-1]["reason"] == "NodeNotReady")
    )
    if silent or disrupted in ("DeletionByTaintManager", "DeletionByPodGC") or status.get("reason") == "NodeLost":
        said = next(
            (event["message"] for event in reversed(events) if event["reason"] == "NodeNotReady"), "Node is not ready"
        )
        yield _pod_finding(pod, "NodeLost", f"{said}: {pod['spec'].get('nodeName', '')}", False)
    elif pod["metadata"].get("deletionTimestamp"):
        return
    elif disrupted or status.get("reason") in ("Evicted", "Preempting"):
        yield _pod_finding(
            pod, "Evicted", status.get("message") or conditions["DisruptionTarget"].get("message", ""), False
        )
    elif scheduled.get("reason") == "SchedulingGated":
        yield _pod_finding(pod, "Queued", scheduled["message"], False)
    elif scheduled.get("reason") == "Unschedulable":
        yield _unschedulable(pod, scheduled, events, snapshot, now)
    elif scheduled.get("status") == "True":
        containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        found = (_of_container(container, pod, events, now) for container in containers)
        if finding := next((one for one in found if one), None):
            yield finding
        elif ready.get("status") != "True" and _age(status.get("startTime"), now) >= SLOW_SECONDS:
            # Nothing that is known by name: the newest warning is the best that there is.
            warnings = [event for event in events if event.get("type") == "Warning" and event["reason"] != "Unhealthy"]
            if warnings and status["phase"] == "Pending" and "failed to sync" not in warnings[-1]["message"]:
                yield _pod_finding(pod, "NotStarted", warnings[-1]["message"], False)


def _of_container(container: Object, pod: Object, events: list[Object], now: datetime) -> Finding | None:
    state, name = container.get("state") or {}, container["name"]
    if "waiting" in state and (finding := _waiting(state["waiting"], name, pod, events, now)):
        return finding

    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    restarts, is_ready, runs = container.get("restartCount", 0), container.get("ready"), "running" in state
    lost = restarts >= RESTARTS and not is_ready
    if ended.get("reason") == "OOMKilled" and (not is_ready or _age(ended.get("finishedAt"), now) < RECENT_SECONDS):
        said = f"OOMKilled, exit code {ended['exitCode']}, {restarts} restarts"
        return _pod_finding(pod, "OutOfMemory", said, lost, name)
    if is_ready:
        return None

    failures = [event["message"].strip(" :\n") for event in events if event["reason"] == "Unhealthy"]
    killed = any(event["reason"] == "Killing" and f"{name} failed" in event["message"] for event in events)
    if failures and (killed or (runs and _age(state["running"].get("startedAt"), now) >= SLOW_SECONDS)):
        return _pod_finding(pod, "UnreadyProbe", f"{failures[-1]}, {restarts} restarts", killed and lost, name)
    if ended and (not runs or lost):
        words = (
            f"{ended.get('reason', 'Error')}, exit code {ended['exitCode']}",
            ended.get("message", "").strip(),
            f"{restarts} restarts",
        )
        return _pod_finding(pod, "CrashLoop", ", ".join(filter(None, words)), lost, name)
    return None


def _waiting(waiting: Object, name: str, pod: Object, events: list[Object], now: datetime) -> Finding | None:
    """Of a container that could not be made yet."""
    reason, said = waiting.get("reason", ""), waiting.get("message", "")
    age = _age(pod["status"].get("startTime"), now)
    if "Image" in reason:
        failed = [event["message"] for event in events if event["message"].startswith("Failed to pull image")]
        if failed and said.startswith("Back-off") and "ErrImagePull" not in said:
            said = failed[-1]
        condition = _first(PULL_FAILURES, said)
        is_final = condition == "ImageNotFound" and (reason == "InvalidImageName" or age >= IMAGE_SECONDS)
        return _pod_finding(pod, condition, said, is_final, name)
    if reason == "CreateContainerConfigError":
        condition = "ConfigMissing" if re.search("not found|couldn't find", said) else "InvalidManifest"
        return _pod_finding(pod, condition, said, age >= MISSING_SECONDS, name)
    unmounted = [
        event["message"] for event in events if event["reason"] == "FailedMount" and '" not found' in event["message"]
    ]
    if reason == "ContainerCreating" and unmounted:
        return _pod_finding(pod, "ConfigMissing", unmounted[-1], age >= MISSING_SECONDS, name)
    return None


def _unschedulable(pod: Object, scheduled: Object, events: list[Object], snapshot: Snapshot, now: datetime) -> Finding:
    """What each node has against the pod decides: one that only lacks room may get it."""
    said = scheduled["message"]
    nodes, _, preemption = said.partition("preemption:")
    reasons = re.split(r", (?=\d+ )", nodes.partition("nodes are available: ")[2])
    conditions = [_first(UNSCHEDULABLE, reason) for reason in reasons]
    age = _age(scheduled.get("lastTransitionTime"), now)
    autoscaler = [
        event for event in events if event["reason"] in ("TriggeredScaleUp", "Nominated", "NotTriggerScaleUp")
    ]
    acts = any(event["reason"] != "NotTriggerScaleUp" for event in autoscaler)
    if autoscaler:
        said += f" {autoscaler[-1]['message']}"
    if "UntoleratedTaint" in conditions and snapshot.nodes:
        # Of the nodes that the pod would take, those whose taints keep it away.
        taints = {node["metadata"]["name"]: _untolerated(pod, node) for node in snapshot.nodes if _matches(pod, node)}
        told = [f"{name} has {taint}" for name, taint in taints.items() if taint]
        said += f" {', '.join(told)}" if told else ""
        passing = any(re.search(PASSING_TAINT, taint) for taint in told)
        instead: Condition = "NoRoom" if passing else "UntoleratedTaint" if told else "UnmatchedAffinity"
        conditions = [instead if one == "UntoleratedTaint" else one for one in conditions]

    if "NoRoom" in conditions:
        # The scheduler would ask in vain for others to leave: even an empty node is too small.
        small = "Insufficient" in nodes and not re.search(PASSING_TAINT, said)
        hopeless = re.fullmatch(
            r" 0/(\d+) nodes are available: \1 Preemption is not helpful for scheduling\.?", preemption
        )
        condition: Condition = "TooLarge" if small and hopeless else "NoRoom"
    else:
        order: tuple[Condition, ...] = ("VolumeUnbound", "UntoleratedTaint", "UnmatchedAffinity")
        condition = next(one for one in order if one in conditions)
    if condition == "VolumeUnbound":
        claims = {
            (volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in pod["spec"].get("volumes", ())
        }
        about = [one for one in snapshot.events if one["involvedObject"].get("kind") == "PersistentVolumeClaim"]
        failed = [
            one["message"] for one in about if one.get("type") == "Warning" and one["involvedObject"]["name"] in claims
        ]
        said = f"{said} {failed[-1]}" if failed else said
        return _pod_finding(pod, condition, said, '" not found' in said and age >= MISSING_SECONDS)
    return _pod_finding(pod, condition, said, condition != "NoRoom" and not acts and age >= AUTOSCALER_SECONDS)


def _pod_finding(pod: Object, condition: Condition, said: str, is_final: bool, container: str = "") -> Finding:
    labels = pod["metadata"].get("labels") or {}
    is_head = labels.get("ray.io/node-type") == "head"
    group = "" if is_head else labels.get("ray.io/group", "")
    remedy = _remedy(condition, pod, _part(is_head, group), container)
    return Finding(_name("Pod", pod), condition, said.strip(), remedy, is_final, is_head, group)


# --- reading objects ---------------------------------------------------------------------------------------------


def _name(kind: str, thing: Object) -> str:
    return f"{kind} {thing['metadata']['namespace']}/{thing['metadata']['name']}"


def _part(is_head: bool, group: str) -> str:
    return "the head" if is_head else f"worker group {group}" if group else "the cluster"


def _remedy(condition: Condition, thing: Object, part: str, container: str = "") -> str:
    metadata = thing["metadata"]
    return EXPLAINED[condition][1].format(
        namespace=metadata["namespace"], name=metadata["name"], part=part, container=container
    )


def _untolerated(pod: Object, node: Object) -> str:
    """The taints of a node that keep the pod away, as ``key=value:effect``."""
    taints = [one for one in node["spec"].get("taints") or () if one["effect"] != "PreferNoSchedule"]
    tolerations = pod["spec"].get("tolerations") or ()
    return ", ".join(
        f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
        for taint in taints
        if not any(
            one.get("key", taint["key"]) == taint["key"]
            and one.get("effect", taint["effect"]) == taint["effect"]
            and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
            for one in tolerations
        )
    )


def _matches(pod: Object, node: Object) -> bool:
    """Whether the node has the labels that the pod asks for; operators other than In and Exists are taken to match."""
    labels, spec = node["metadata"].get("labels") or {}, pod["spec"]
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = required.get("nodeSelectorTerms") or ({},)
    refused = {
        "In": lambda rule: labels.get(rule["key"]) not in rule["values"],
        "Exists": lambda rule: rule["key"] not in labels,
    }
    return any(
        not any(
            rule["operator"] in refused and refused[rule["operator"]](rule)
            for rule in term.get("matchExpressions") or ()
        )
        for term in terms
    )


def _first(table: Iterable[tuple[str, Condition]], said: str) -> Condition:
    return next(condition for pattern, condition in table if re.search(pattern, said))


def _conditions(status: Object) -> dict[str, Object]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def _group_in(said: str, cluster: Object) -> str:
    """The worker group that a message about a pod means: KubeRay names pods ``cluster-group-worker-random``."""
    groups = [group["groupName"] for group in cluster["spec"].get("workerGroupSpecs") or ()]
    return next((group for group in sorted(groups, key=len, reverse=True) if f"-{group}-worker-" in said), "")


def _events_of(thing: Object, events: Iterable[Object]) -> list[Object]:
    """The events about ``thing``, the newest last."""
    return sorted(
        (event for event in events if event["involvedObject"].get("uid") == thing["metadata"].get("uid")), key=_last
    )


def _last(event: Object) -> str:
    """When an event was last seen: its fields depend on which client wrote it."""
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""


def _age(moment: str | None, now: datetime) -> float:
    if not moment:
        return 0.0
    then = datetime.fromisoformat(moment)
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def _fits_quota_later(said: str, pods: Iterable[Object]) -> bool:
    """Whether a refused pod would fit once all pods but the cluster's own are gone."""
    asked, limits = (
        dict(item.split("=", 1) for item in re.split(", ?", match[1])) if (match := re.search(pattern, said)) else {}
        for pattern in (r"requested: (.*?), used:", r"limited: (.*)$")
    )
    return all(
        _own(name, pods) + _quantity(amount) <= _quantity(limits.get(name, "0")) for name, amount in asked.items()
    )


def _own(resource: str, pods: Iterable[Object]) -> Decimal:
    """How much of a quota's resource the pods take: ``pods``, ``limits.memory``, ``requests.cpu`` or in short ``cpu``."""
    if resource in ("pods", "count/pods"):
        return Decimal(sum(1 for _ in pods))
    kind, name = resource.split(".", 1) if resource.startswith(("requests.", "limits.")) else ("requests", resource)
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    return sum((_quantity((one.get("resources") or {}).get(kind, {}).get(name, "0")) for one in containers), Decimal(0))


def _quantity(text: str) -> Decimal:
    """A Kubernetes quantity as a number: ``500m``, ``2``, ``1536Mi``."""
    number, suffix = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    power = " kMGTPE".find((suffix or " ")[0].replace("K", "k"))
    return Decimal(number) * (
        Decimal("0.001") if suffix == "m" else Decimal(1024 if suffix.endswith("i") else 1000) ** power
    )
