"""The shape of a RayCluster, as far as rayworks reads its fields. Every other field is KubeRay's to check."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

Fields = dict[str, Any]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, alias_generator=to_camel)


class _PodMetadata(_Shape):
    labels: Fields = {}


class _Variables(_Shape):
    env: list[Fields] = []


class _Pod(_Shape):
    containers: list[_Variables] = Field(min_length=1)


class _Template(_Shape):
    metadata: _PodMetadata = _PodMetadata()
    spec: _Pod


class _HeadGroup(_Shape):
    ray_start_params: Fields = {}
    template: _Template


class _WorkerGroup(_HeadGroup):
    group_name: str


class _Spec(_Shape):
    head_group_spec: _HeadGroup
    worker_group_specs: list[_WorkerGroup] = []
    auth_options: Fields = {}
    autoscaler_options: _Variables = _Variables()
    gcs_fault_tolerance_options: Fields = {}


class _Metadata(_PodMetadata):
    name: str
    namespace: str = ""
    annotations: Fields = {}
    owner_references: list[Fields] = []


class _RayCluster(_Shape):
    metadata: _Metadata
    spec: _Spec


def shape_problems(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is missing in a manifest, or has another form than a RayCluster has it, each with its path."""
    try:
        _RayCluster.model_validate(manifest)
    except ValidationError as error:
        for problem in error.errors():
            words = {"missing": "is missing", "too_short": "is empty"}
            invalid = f"is invalid: {problem['msg'].lower()}"
            yield f"{_path(problem['loc'])} {words.get(problem['type'], invalid)}"


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
