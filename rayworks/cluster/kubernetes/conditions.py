"""The conditions that keep a Ray cluster on Kubernetes from running.

Each has a name, a text, and the words in Kubernetes' messages by which it is recognised.
"""

import re
from collections.abc import Iterable
from typing import Literal

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
        "Grant the account that verb on that resource with a Role and a RoleBinding in the namespace",
    ),
    "AdmissionRefused": (
        "is refused by the rules of the namespace",
        "Change the manifest so that it meets the rule, or ask the owner of the rule for an exception",
    ),
    "InvalidManifest": ("has an invalid manifest", "Correct that field in the manifest"),
    "QuotaExceeded": (
        "exceeds the quota of the namespace",
        "Lower the requests or the replicas in the manifest, or have the quota raised: "
        "kubectl describe quota -n {namespace}",
    ),
    "ImageNotFound": (
        "has an image that cannot be pulled",
        "Check the image's name and tag, that it was pushed, and the imagePullSecrets",
    ),
    "ConfigMissing": (
        "refers to an object that does not exist",
        "Create it in namespace {namespace}, or correct its name in the manifest",
    ),
    "OutOfMemory": (
        "ran out of memory",
        "Raise the memory request and limit of {part} in the manifest, "
        "and declare what the task needs with @resources(memory=...)",
    ),
    "CrashLoop": (
        "exits as soon as it starts",
        "Read its log: kubectl logs -n {namespace} {name} -c {container} --previous",
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
        "requests more than any node has",
        "Lower the requests of {part} below what a node has, or add larger nodes",
    ),
    "VolumeUnbound": (
        "waits for a volume",
        "Check the claim and its storage class: kubectl describe pvc -n {namespace}",
    ),
    "OperatorSilent": (
        "is ignored by the KubeRay operator",
        "Check that the operator runs and watches namespace {namespace}: "
        "kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator",
    ),
    "WebhookUnreachable": (
        "cannot be checked by an admission webhook",
        "Have the service behind the webhook restarted, or its configuration removed",
    ),
    "ImageUnreachable": (
        "has an image whose registry does not respond",
        "Check the registry's address, and that the nodes can reach it",
    ),
    "NodeLost": ("is on a node that does not respond", "Have the node repaired, or delete it so that its pods move"),
    "Evicted": (
        "was evicted from its node",
        "Raise what it ran out of in the pod template of {part}, or its priorityClassName",
    ),
    "UnreadyProbe": (
        "does not become ready",
        "Read its log: kubectl logs -n {namespace} {name} -c {container}; "
        "if it is only slow, give it more CPU, or the probe more time",
    ),
    "NotStarted": ("has not started", "Check its events: kubectl describe pod -n {namespace} {name}"),
    "NoRoom": (
        "fits on no node at present",
        "Wait until other pods end, lower the requests of {part}, or add nodes",
    ),
    "Queued": ("is held back", "Check what holds it: scheduling gates, spec.suspend, or the queue that admits it"),
}
"""For each condition, the clause that follows the subject of a sentence, and the remedy."""

REFUSALS: tuple[tuple[str, Condition], ...] = (
    (r"exceeded quota", "QuotaExceeded"),
    (r"failed quota|violates PodSecurity|denied (the )?request", "AdmissionRefused"),
    (r"failed calling webhook", "WebhookUnreachable"),
    (r"error looking up|\" not found", "ConfigMissing"),
    (r"User \".*\" cannot", "Forbidden"),
    (r"is forbidden", "AdmissionRefused"),
    (r"", "InvalidManifest"),
)
"""Why the API server refuses an object. In this table and those below, the first row whose pattern matches decides."""

PULL_FAILURES: tuple[tuple[str, Condition], ...] = (
    (
        r"connection re(fused|set)|no such host|timeout|timed out|unreachable|toomanyrequests|x509|EOF",
        "ImageUnreachable",
    ),
    (r"", "ImageNotFound"),
)
"""Why an image was not pulled."""

PASSING_TAINT = r"node\.kubernetes\.io/|node\.cloudprovider\.kubernetes\.io/|ClusterAutoscaler"
"""Taints that Kubernetes sets, and removes when the node is healthy again."""
UNSCHEDULABLE: tuple[tuple[str, Condition], ...] = (
    (rf"untolerated taint.*({PASSING_TAINT})", "NoRoom"),
    (r"untolerated taint", "UntoleratedTaint"),
    (r"node affinity/selector", "UnmatchedAffinity"),
    (r"(?i)persistentvolume|volume", "VolumeUnbound"),
    (r"", "NoRoom"),
)
"""Why the scheduler rejects a node for a pod."""

AUTOSCALER_SECONDS = 40
"""How long a node autoscaler may take to announce a node before a pod that fits no present node counts as failed."""
IMAGE_SECONDS = 15
"""How long an image may be missing: it may be pushed at this moment."""
MISSING_SECONDS = 30
"""How long an object that a pod refers to may be missing: it may be applied just after the cluster."""
SLOW_SECONDS = 30
"""How long a pod may take to start, and Ray to pass its probes, before a warning of Kubernetes counts."""
OPERATOR_SECONDS, OPERATOR_GIVEN_UP_SECONDS = 15, 45
"""How long KubeRay may leave a RayCluster without a status; an operator that restarts takes about half a minute."""
RESTARTS = 2
"""After this many restarts, a container that ends again counts as failed."""
RECENT_SECONDS = 300
"""How long a pod that runs again is still reported as out of memory or evicted."""


def first_match(table: Iterable[tuple[str, Condition]], message: str) -> Condition:
    """Return the condition of the first row whose pattern occurs in the message."""
    return next(condition for pattern, condition in table if re.search(pattern, message))
