"""Why no worker of a RayCluster comes for a task that waits. No Kubernetes."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.cluster.kubernetes import worker_groups
from rayworks.cluster.kubernetes.finding import Snapshot

ROOT = Path(__file__).resolve().parents[2]
GIB = 1024.0**3
NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The shipped RayCluster: workers of 1 CPU and 3 GiB, at most 8, and some with GPUs."""
    shipped = yaml.safe_load((ROOT / "deployments/kubernetes/base/raycluster.yaml").read_text())
    shipped["metadata"] |= {"namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return shipped | {"status": {"conditions": [{"type": "HeadPodReady", "status": "True"}]}}


def worker(number: int, **status: Any) -> dict[str, Any]:
    labels = {"ray.io/node-type": "worker", "ray.io/group": "cpu"}
    metadata = {"name": f"worker-{number}", "namespace": "ns", "uid": str(number), "labels": labels}
    conditions = [{"type": name, "status": "True"} for name in ("Ready", "PodScheduled")]
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Running", "conditions": conditions} | status}


def why(cluster: dict[str, Any], *pods: dict[str, Any], **requests: float) -> str:
    return worker_groups.why_none_comes(requests, Snapshot(cluster, pods), NOW)


def test_what_a_worker_has_is_read_as_ray_s_autoscaler_reads_it(cluster: dict[str, Any]):
    assert worker_groups.nodes(cluster) == [
        {"CPU": 1, "memory": 3 * GIB},
        {"CPU": 4, "GPU": 1, "memory": 16 * GIB, "rayworks.io/gpu": 1},
    ]
    group, _ = cluster["spec"]["workerGroupSpecs"]
    group["rayStartParams"] = {"num-cpus": "3", "resources": '\'"{\\"licence\\": 2}"\''.strip("'")}
    assert worker_groups.nodes(cluster)[0] == {"CPU": 3, "memory": 3 * GIB, "licence": 2}
    group["resources"] = {"CPU": "1500m", "memory": "1Gi", "ssd": "1"}
    assert worker_groups.nodes(cluster)[0] == {"CPU": 2, "memory": GIB, "ssd": 1}


@pytest.mark.parametrize("wrong", [{"num-cpus": "many"}, {"resources": "licence=2"}])
def test_what_a_worker_has_is_unknown_where_it_cannot_be_read(cluster: dict[str, Any], wrong: dict[str, str]):
    cluster["spec"]["workerGroupSpecs"][0]["rayStartParams"] = wrong
    assert worker_groups.nodes(cluster) is None
    assert why(cluster, CPU=64.0) == ""


def test_a_cluster_without_autoscaling_adds_the_workers_of_its_manifest_and_no_more(cluster: dict[str, Any]):
    del cluster["spec"]["enableInTreeAutoscaling"]
    assert worker_groups.nodes(cluster) == []
    cluster["spec"]["workerGroupSpecs"][0]["replicas"] = 1
    assert len(worker_groups.nodes(cluster)) == 1
    assert why(cluster, worker(1), CPU=1.0) == "Worker group cpu is at its maximum of 1"


def test_a_request_that_exceeds_every_group_is_named_with_what_they_have(cluster: dict[str, Any]):
    text = why(cluster, CPU=64.0)
    assert text.startswith(
        "No worker group has as much (cpu: 1 CPU, 3 GiB of memory; gpu: 4 CPU, 1 GPU, 16 GiB of memory)"
    )
    assert "request less by @resources" in text
    assert why(cluster, CPU=4.0).startswith("No worker group has as much")  # the GPU workers are for others
    assert "gpu has 0 of at most 4 workers" in why(cluster, CPU=4.0, GPU=1.0)


def test_a_group_at_its_maximum_is_named(cluster: dict[str, Any]):
    workers = [worker(number) for number in range(8)]
    assert why(cluster, *workers, CPU=1.0) == "Worker group cpu is at its maximum of 8"
    assert why(cluster, *workers[:7], CPU=1.0).startswith("Worker group cpu has 7 of at most 8 workers, and Ray's")


def test_a_worker_that_fits_on_no_node_is_named_with_the_words_of_kubernetes(cluster: dict[str, Any]):
    message = "0/3 nodes are available: 3 Insufficient cpu."
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    text = why(cluster, worker(1), worker(2, phase="Pending", conditions=[unscheduled]), CPU=1.0)
    assert text.startswith("A Ray worker of group cpu fits on no node at present: Pod ns/worker-2 (NoRoom: 0/3 nodes")


def test_a_worker_whose_init_container_takes_long_is_named_with_it(cluster: dict[str, Any]):
    setup = {"name": "setup", "ready": False, "state": {"running": {"startedAt": "2026-01-01T00:00:20Z"}}}
    ray = {"name": "ray-worker", "ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    statuses = {"initContainerStatuses": [setup], "containerStatuses": [ray], "conditions": [scheduled]}
    text = why(cluster, worker(1, phase="Pending", **statuses), CPU=1.0)
    assert text == ("A worker of group cpu starts: worker-1 is Pending, its init container setup has run for 40 s")


def test_an_init_container_that_fails_is_named(cluster: dict[str, Any]):
    recording = json.loads((ROOT / "tests/unit/statuses/worker-crash.json").read_text())
    pod = next(pod for pod in recording["pods"] if pod["metadata"]["labels"]["ray.io/node-type"] == "worker")
    status = copy.deepcopy(pod["status"])
    status["initContainerStatuses"] = [status["containerStatuses"][0] | {"name": "setup"}]
    owner, now = recording["cluster"], datetime.fromisoformat(recording["now"])
    snapshot = Snapshot(owner, (pod | {"status": status},))
    text = worker_groups.why_none_comes({"CPU": 0.0}, snapshot, now)
    assert "CrashLoop: init container setup: Error, exit code 1" in text
    assert "-c setup --previous" in text
