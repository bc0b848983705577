"""How long a flow run on Kubernetes waits for its first Ray task, beside a bare RayJob; and its tasks per second.

    KUBECONFIG=… RAYWORKS_TEST_IMAGE=… python benchmarks/kubernetes.py

Uses the installation that the cluster tests create (tests/cluster/conftest.py), in a namespace that is deleted at the
end. The RayJob has the same image, pods and autoscaler, and is submitted by ``kubectl apply``. All times are the
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

from tests.cluster.conftest import STORAGE, FlowRun, Installation
from tests.waiting import eventually

TASKS = 300
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
    [cluster] = installation.namespace.get("rayclusters")["items"]
    times = {"RayCluster created (Kubernetes API)": seconds(cluster["metadata"]["creationTimestamp"])}
    for kind in ("head", "worker"):
        [pod] = installation.namespace.get("pods", f"--selector=ray.io/node-type={kind}")["items"]
        creator = "KubeRay" if kind == "head" else "driver, autoscaler and KubeRay"
        times[f"{kind} pod created ({creator})"] = seconds(pod["metadata"]["creationTimestamp"])
        times[f"{kind} container runs (Kubernetes)"] = running(pod)
        if (when := ready(pod)) is not None:
            times[f"{kind} ready (Ray, its probe)"] = when
    return times


def run_times(run: FlowRun) -> dict[str, float]:
    """When the pod of a flow run was created and started, and when the flow started."""
    [pod] = run.installation.namespace.get("pods", f"--selector=prefect.io/flow-run-id={run.id}")["items"]
    flow_run = run.installation.ask("GET", f"/flow_runs/{run.id}")
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
    script = f"ls {file} 2>/dev/null || true"
    eventually(lambda: installation.on_storage(script), 600, f"{file} was not written", every=1)
    return float(installation.on_storage(f"stat -c %.Y {file}"))


def bare_job(installation: Installation, file: str) -> dict[str, Any]:
    """A RayJob with the cluster that flow runs get. Its task writes ``file``."""
    spec = yaml.safe_load(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))["spec"]
    worker = installation.namespace.get("deployment", "prefect-worker")["spec"]["template"]["spec"]
    image = worker["containers"][0]["image"]
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
def test_seconds_to_the_first_task(installation: Installation, trial_run: Any) -> None:
    # As deployments/kubernetes/raycluster.yaml has it: an idle worker of a warm cluster stays for a minute.
    installation.on_storage(f"sed -i 's/idleTimeoutSeconds: 15/idleTimeoutSeconds: 60/' {STORAGE}/code/raycluster.yaml")

    def measure(title: str, with_ray: bool, **settings: Any) -> None:
        requested = time.time()
        run, folder = trial_run(5, **settings)
        body = written(installation, f"{folder}/second.begun")
        assert run.state()["type"] in ("RUNNING", "COMPLETED"), run.log()
        ray = ray_times(installation) if with_ray else {}
        show(title, requested, run_times(run) | ray | {"body of the first task that requires a CPU": body})
        assert run.wait_for_end() == "COMPLETED"

    measure("a cluster for the run", True)
    installation.assert_no_ray()
    measure("a shared cluster, created", True, RAYWORKS_RAY_IDLE_SECONDS="60")
    measure("a shared cluster, reused", False, RAYWORKS_RAY_IDLE_SECONDS="60")
    installation.namespace.kubectl("delete", "rayclusters", "--all")
    installation.assert_no_ray()

    file = f"{STORAGE}/{uuid.uuid4().hex[:6]}"
    installation.on_storage(f"cat > {STORAGE}/code/bare.py", stdin=BARE)
    job = bare_job(installation, file)
    requested = time.time()
    installation.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    body = written(installation, file)
    show("a bare RayJob", requested, ray_times(installation) | {"body of the first task that requires a CPU": body})
    installation.namespace.kubectl("delete", "rayjob", "bare")
    installation.assert_no_ray()


@pytest.mark.timeout(1800)
def test_tasks_per_second(installation: Installation, trial_run: Any) -> None:
    run, _ = trial_run(1, RAYWORKS_RAY_IDLE_SECONDS="300")
    assert run.wait_for_end() == "COMPLETED"
    [cluster] = installation.clusters()
    installation.on_storage(f"cat > {STORAGE}/code/many.py", stdin=MANY)
    head = f"{cluster}-head-svc"
    for title, settings in (
        ("a driver that joined", f"RAYWORKS_RAY_ADDRESS={STORAGE}/code/raycluster.yaml RAYWORKS_RAY_IDLE_SECONDS=300"),
        ("over ray://", f"RAYWORKS_RAY_ADDRESS=ray://{head}:10001"),
    ):
        output = installation.in_a_pod("sh", "-c", f"{settings} python {STORAGE}/code/many.py 2>&1")
        sys.stdout.write(f"\n{title}\n")
        for line in re.findall("RATE (.*)", output):
            sys.stdout.write(f"  {line}\n")


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.exit(pytest.main([__file__, "-q", "-s", "-p", "tests.cluster.conftest", f"--rootdir={root}", *sys.argv[1:]]))
