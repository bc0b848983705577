"""A Kubernetes API in this process, whose clusters look like recorded ones."""

import copy
import json
from pathlib import Path
from typing import Any

from rayworks.cluster.kubernetes.api import ConflictError
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER, Kind

STATUSES = Path(__file__).parent / "statuses"


class Api:
    """A namespace of a Kubernetes API: objects by kind and name."""

    namespace = "ns"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.recording: dict[str, Any] = {"pods": [], "events": [], "nodes": []}
        self.log: list[str] = []
        self.refused: dict[str, Exception] = {}
        """By the verb and kind of the request."""

    def shows(self, name: str) -> None:
        """Let all clusters look like a recorded one."""
        self.recording = json.loads((STATUSES / f"{name}.json").read_text())

    def names(self, kind: Kind) -> list[str]:
        return [name for kind_name, name in self.objects if kind_name == kind.name]

    def _note(self, verb: str, kind: Kind) -> None:
        self.log.append(f"{verb} {kind.name}")
        if error := self.refused.get(f"{verb} {kind.name}"):
            raise error

    def create(self, kind: Kind, manifest: dict[str, Any]) -> dict[str, Any]:
        self._note("create", kind)
        name = manifest["metadata"]["name"]
        if (kind.name, name) in self.objects:
            raise ConflictError(409, {}, kind.name, f"create {kind.name} ns/{name}")
        thing = copy.deepcopy(manifest)
        thing["metadata"] |= {"uid": f"uid-of-{name}", "namespace": "ns"}
        return self.objects.setdefault((kind.name, name), thing)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        self._note("get", kind)
        thing = self.objects.get((kind.name, name))
        if thing is None or kind != RAYCLUSTER or "cluster" not in self.recording:
            return thing
        return self.recording["cluster"] | {"metadata": self.recording["cluster"]["metadata"] | thing["metadata"]}

    def patch(self, kind: Kind, name: str, patch: dict[str, Any]) -> dict[str, Any] | None:
        self._note("patch", kind)
        return self.objects.get((kind.name, name))

    def annotate(self, kind: Kind, name: str, annotations: dict[str, str]) -> dict[str, Any] | None:
        self._note("annotate", kind)
        if thing := self.objects.get((kind.name, name)):
            thing["metadata"].setdefault("annotations", {}).update(annotations)
        return thing

    def delete(self, kind: Kind, name: str, *, uid: str | None = None) -> bool:
        self._note("delete", kind)
        return self.objects.pop((kind.name, name), None) is not None

    def pods(self, *, labels: str) -> list[dict[str, Any]]:
        return copy.deepcopy(self.recording["pods"])

    def events(self) -> list[dict[str, Any]]:
        return self.recording["events"]

    def nodes(self) -> list[dict[str, Any]]:
        return self.recording.get("nodes", [])

    def pod_log(self, *_: object, **__: object) -> str:
        return "a line"
