"""What Kubernetes shows of a Ray cluster, and what is found wrong in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayworks.cluster.kubernetes import objects
from rayworks.cluster.kubernetes.conditions import EXPLAINED, Condition
from rayworks.cluster.kubernetes.objects import Object


@dataclass(frozen=True)
class Snapshot:
    """What Kubernetes shows of an object that has Ray pods, at one moment."""

    owner: Object
    """The custom object: a RayCluster."""
    pods: tuple[Object, ...] = ()
    """Its Ray pods."""
    events: tuple[Object, ...] = ()
    """Core/v1 events of the namespace. Those about other objects are ignored."""
    nodes: tuple[Object, ...] = ()
    """All nodes, if the account may read them: since Kubernetes 1.34 the scheduler does not name the taints."""

    @property
    def kind(self) -> str:
        """The kind of the owner."""
        return self.owner["kind"]


@dataclass(frozen=True)
class Part:
    """The part of a Ray cluster that a finding is about."""

    owner_kind: str
    is_head: bool = False
    worker_group: str = ""

    @property
    def subject(self) -> str:
        """The part as the subject of a sentence."""
        if self.is_head:
            return "the Ray head"
        return f"a Ray worker of group {self.worker_group}" if self.worker_group else f"the {self.owner_kind}"

    @property
    def in_manifest(self) -> str:
        """The part as a manifest has it."""
        if self.is_head:
            return "the head"
        return f"worker group {self.worker_group}" if self.worker_group else "the cluster"


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a Ray cluster, or a pod of it, from running."""

    object: str
    """``Kind namespace/name``."""
    condition: Condition
    detail: str
    """Kubernetes' own words."""
    remedy: str
    is_final: bool
    """Whether waiting is useless, because it does not resolve itself."""
    part: Part


def about_owner(
    snapshot: Snapshot, condition: Condition, detail: str, *, is_final: bool, part: Part | None = None
) -> Finding:
    """Return a finding about the owner of the pods, or about a part of it that has no pod."""
    part = part or Part(snapshot.kind)
    where = objects.reference(snapshot.kind, snapshot.owner)
    return Finding(where, condition, detail, remedy(condition, snapshot.owner, part), is_final, part)


def about_pod(
    pod: Object, owner_kind: str, condition: Condition, detail: str, *, is_final: bool, container: str = ""
) -> Finding:
    """Return a finding about a pod, or about one of its containers."""
    part = Part(owner_kind, objects.is_head(pod), objects.worker_group(pod))
    where = objects.reference("Pod", pod)
    return Finding(where, condition, detail.strip(), remedy(condition, pod, part, container), is_final, part)


def remedy(condition: Condition, thing: Mapping[str, Any], part: Part, container: str = "") -> str:
    """Return what to do about a condition of an object."""
    metadata = thing["metadata"]
    return EXPLAINED[condition][1].format(
        namespace=metadata["namespace"], name=metadata["name"], part=part.in_manifest, container=container
    )
