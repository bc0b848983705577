"""stand-in until the real one is merged"""
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayworks.errors import ClusterError


@dataclass(frozen=True)
class Snapshot:
    cluster: dict[str, Any]
    pods: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
@dataclass(frozen=True)
class Finding:
    object: str
    condition: str
    said: str
    remedy: str
    is_final: bool
    is_head: bool
    group: str = ""
def findings(snapshot: Snapshot, now: datetime) -> list[Finding]:
    return []
def error(finding: Finding) -> ClusterError:
    return ClusterError(finding.condition, where=finding.object, said=finding.said, remedy=finding.remedy)
def refusal(status: int, body: dict[str, Any], where: str) -> ClusterError:
    return ClusterError("refused", where=where, said=str(body.get("message")))
