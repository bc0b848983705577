"""How long a flow run on Kubernetes waits for its first Ray task, beside a bare RayJob; and its tasks per second.

    KUBECONFIG=… RAYWORKS_TEST_IMAGE=… python benchmarks/kubernetes.py

Uses the installation that the cluster tests create (tests/cluster/conftest.py), in a namespace that is deleted at the
end. The RayJob has the same image, pods and autoscaler, and is submitted by ``kubectl apply``. The times are the
cluster's.
"""

import json
import re
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import runs
from tests.cluster.installation import STORAGE, Installation
from tests.cluster.runs import FlowRun, RayOfRun
from tests.waiting import eventually

TASKS = 300
CLUSTER = "benchmark"
"""Name of the RayCluster manifest of all runs."""
BARE = """
import pathlib, sys, time, ray

ray.init()

@ray.remote
def body(file):
    pathlib.Path(file).write_text("started")

ray.get(body.remote(sys.argv[1]))
"""
MANY = f"""
import sys, time

import ray
from prefect import flow, task
from rayworks import RayTaskRunner, resources

@task
@resources(num_cpus=0.5)
def nothing(i):
    return i

@flow(task_runner=RayTaskRunner())
def many():
    bare = ray.remote(num_cpus=0.5)(lambda i: i)
    for what, calls in (("task runs", lambda: nothing.map(range({TASKS})).result()),
                        ("bare Ray tasks", lambda: ray.get([bare.remote(i) for i in range({TASKS})]))):
        calls()
        started = time.monotonic()
        calls()
        print(f"RATE {{what}}: {{{TASKS} / (time.monotonic() - started):.0f}} a second", flush=True)

many()
"""


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ready(pod: dict[str, Any]) -> float | None:
    """When the pod became ready; None if it is not ready."""
    conditions = pod["status"]["conditions"]
    times = [c["lastTransitionTime"] for c in conditions if c["type"] == "Ready" and c["status"] == "True"]
    return seconds(times[0]) if times else None


def running(pod: dict[str, Any]) -> float:
    """When the first container of the pod started."""
    states = [status["state"] for status in pod["status"]["containerStatuses"]]
    return min(seconds(state["running"]["startedAt"]) for state in states if "running" in state)


def ray_times(installation: Installation) -> dict[str, float]:
    """When each part of the only RayCluster was created and became ready, once its worker is busy."""
    [cluster] = installation.namespace.list("rayclusters")
    times = {"RayCluster created (Kubernetes API)": seconds(cluster["metadata"]["creationTimestamp"])}
    for kind in ("head", "worker"):
        [pod] = installation.namespace.list("pods", f"ray.io/node-type={kind}")
        creator = "KubeRay" if kind == "head" else "driver, autoscaler and KubeRay"
        times[f"{kind} pod created ({creator})"] = seconds(pod["metadata"]["creationTimestamp"])
        times[f"{kind} container runs (Kubernetes)"] = running(pod)
        if (when := ready(pod)) is not None:
            times[f"{kind} ready (Ray, its probe)"] = when
    return times


def run_times(run: FlowRun) -> dict[str, float]:
    """When the pod of a flow run was created and started, and when the flow started."""
    [pod] = run.pods()
    flow_run = run.installation.prefect("GET", f"/flow_runs/{run.id}")
    return {
        "flow-run pod created (Prefect's worker)": seconds(pod["metadata"]["creationTimestamp"]),
        "flow-run container runs (Kubernetes)": running(pod),
        "flow starts (imports, Prefect)": seconds(flow_run["start_time"]),
    }


def show(title: str, requested: float, times: dict[str, float]) -> None:
    sys.stdout.write(f"\n{title}: seconds since the request\n")
    for name, when in sorted(times.items(), key=lambda item: item[1]):
        sys.stdout.write(f"  {when - requested:6.1f}  {name}\n")


def written(installation: Installation, file: str) -> float:
    """When ``file`` was written on the shared storage. Waits for it."""
    eventually(lambda: installation.exists(file), 600, f"{file} was not written", every=1)
    return float(installation.on_storage(f"stat -c %.Y {file}"))


def bare_job(installation: Installation, file: str) -> dict[str, Any]:
    """A RayJob with the cluster that flow runs get. Its task writes ``file``."""
    spec = yaml.safe_load(installation.on_storage(f"cat {installation.manifest(CLUSTER)}"))["spec"]
    image = installation.namespace.cluster.image
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["image"] = image
    head = spec["headGroupSpec"]["template"]["spec"]
    container = {"name": "submitter", "image": image, "securityContext": head["containers"][0]["securityContext"]}
    submitter = {"restartPolicy": "Never", "securityContext": head["securityContext"], "containers": [container]}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "bare"},
        "spec": {
            "entrypoint": f"python {STORAGE}/code/bare.py {file}",
            "rayClusterSpec": spec,
            "submitterPodTemplate": {"spec": submitter},
        },
    }


@pytest.mark.timeout(1800)
def test_seconds_to_the_first_task(installation: Installation) -> None:
    installation.write_manifest(CLUSTER, has_dashboard=True)
    # As deployments/kubernetes/base/raycluster.yaml has it: an idle worker of a warm cluster stays for a minute.
    script = f"sed -i 's/idleTimeoutSeconds: 15/idleTimeoutSeconds: 60/' {installation.manifest(CLUSTER)}"
    installation.on_storage(script)
    ray = RayOfRun(installation.namespace, cluster_name="")

    def measure(title: str, with_ray: bool, **settings: Any) -> None:
        requested = time.time()
        run = runs.start_flow_run(installation, 5, cluster_name=CLUSTER, **settings)
        body = written(installation, f"{run.folder}/second.started")
        assert run.state()["type"] in ("RUNNING", "COMPLETED"), run.log()
        of_ray = ray_times(installation) if with_ray else {}
        show(title, requested, run_times(run) | of_ray | {"body of the first task that requires a CPU": body})
        assert run.wait_for_end() == "COMPLETED"

    measure("a cluster for the run", True)
    ray.assert_deleted()
    measure("a shared cluster, created", True, RAYWORKS_RAY_IDLE_SECONDS="60")
    measure("a shared cluster, reused", False, RAYWORKS_RAY_IDLE_SECONDS="60")
    installation.namespace.kubectl("delete", "rayclusters", "--all")
    ray.assert_deleted()

    file = f"{STORAGE}/{uuid.uuid4().hex[:6]}"
    installation.on_storage(f"cat > {STORAGE}/code/bare.py", stdin=BARE)
    job = bare_job(installation, file)
    requested = time.time()
    installation.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    body = written(installation, file)
    show("a bare RayJob", requested, ray_times(installation) | {"body of the first task that requires a CPU": body})
    installation.namespace.kubectl("delete", "rayjob", "bare")
    ray.assert_deleted()


@pytest.mark.timeout(1800)
def test_tasks_per_second(installation: Installation) -> None:
    installation.write_manifest(CLUSTER, has_dashboard=True)
    run = runs.start_flow_run(installation, 1, cluster_name=CLUSTER, RAYWORKS_RAY_IDLE_SECONDS="300")
    assert run.wait_for_end() == "COMPLETED"
    [cluster] = run.ray.clusters()
    installation.on_storage(f"cat > {STORAGE}/code/many.py", stdin=MANY)
    head = f"{cluster}-head-svc"
    for title, settings in (
        (
            "a driver that joined",
            f"RAYWORKS_RAY_ADDRESS={installation.manifest(CLUSTER)} RAYWORKS_RAY_IDLE_SECONDS=300",
        ),
        ("over ray://", f"RAYWORKS_RAY_ADDRESS=ray://{head}:10001"),
    ):
        output = installation.run_in_a_pod("sh", "-c", f"{settings} python {STORAGE}/code/many.py 2>&1")
        sys.stdout.write(f"\n{title}\n")
        for line in re.findall("RATE (.*)", output):
            sys.stdout.write(f"  {line}\n")


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    options = ("-q", "-s", "--numprocesses=0", "-p", "tests.cluster.conftest")
    sys.exit(pytest.main([__file__, *options, f"--rootdir={root}", *sys.argv[1:]]))
