"""What a flow run in Kubernetes waits for before its first Ray task, beside a bare RayJob; and tasks per second from there.

    KUBECONFIG=… RAYWORKS_TEST_IMAGE=… python benchmarks/kubernetes.py

It uses the installation that the cluster tests make (see tests/cluster/conftest.py), in a namespace that it deletes. The
RayJob has the same image, pods and autoscaler, and is submitted by ``kubectl apply``. All times are those of the cluster.
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
    pathlib.Path(file).write_text("begun")

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
    for what, calls in (("task runs", lambda: [one.result() for one in nothing.map(range({TASKS}))]),
                        ("bare Ray tasks", lambda: ray.get([bare.remote(i) for i in range({TASKS})]))):
        calls()
        began = time.monotonic()
        calls()
        print(f"RATE {{what}}: {{{TASKS} / (time.monotonic() - began):.0f}} a second", flush=True)

many()
"""


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ready(pod: dict[str, Any]) -> float | None:
    """When the pod was ready; None where its probe has not found so yet."""
    conditions = [one for one in pod["status"]["conditions"] if one["type"] == "Ready" and one["status"] == "True"]
    return seconds(conditions[0]["lastTransitionTime"]) if conditions else None


def running(pod: dict[str, Any]) -> float:
    states = [status["state"] for status in pod["status"]["containerStatuses"]]
    return min(seconds(state["running"]["startedAt"]) for state in states if "running" in state)


def of_ray(installation: Installation) -> dict[str, float]:
    """When the parts of the one cluster came, once its worker works."""
    [cluster] = installation.namespace.get("rayclusters")["items"]
    marks = {"RayCluster created (asked of the Kubernetes API)": seconds(cluster["metadata"]["creationTimestamp"])}
    for kind in ("head", "worker"):
        [pod] = installation.namespace.get("pods", f"--selector=ray.io/node-type={kind}")["items"]
        maker = "KubeRay" if kind == "head" else "driver, autoscaler and KubeRay"
        marks[f"{kind} pod created ({maker})"] = seconds(pod["metadata"]["creationTimestamp"])
        marks[f"{kind} container runs (Kubernetes)"] = running(pod)
        if (when := ready(pod)) is not None:
            marks[f"{kind} ready (Ray, its probe)"] = when
    return marks


def show(what: str, began: float, marks: dict[str, float]) -> None:
    sys.stdout.write(f"\n{what}: seconds since the request\n")
    for name, when in sorted(marks.items(), key=lambda mark: mark[1]):
        sys.stdout.write(f"  {when - began:6.1f}  {name}\n")


def written(installation: Installation, file: str) -> float:
    eventually(lambda: installation.on_storage(f"ls {file} 2>/dev/null || true"), 600, f"{file} never came", every=1)
    return float(installation.on_storage(f"stat -c %.Y {file}"))


def of_run(run: FlowRun) -> dict[str, float]:
    [pod] = run.installation.namespace.get("pods", f"--selector=prefect.io/flow-run-id={run.id}")["items"]
    flow_run = run.installation.ask("GET", f"/flow_runs/{run.id}")
    return {
        "flow-run pod created (Prefect's worker)": seconds(pod["metadata"]["creationTimestamp"]),
        "flow-run container runs (Kubernetes)": running(pod),
        "flow begins (imports, Prefect)": seconds(flow_run["start_time"]),
    }


@pytest.mark.timeout(1800)
def test_seconds_to_the_first_task(installation: Installation, trial_run: Any) -> None:
    # As it is shipped: an idle worker of a warm cluster stays for a minute.
    installation.on_storage(f"sed -i 's/idleTimeoutSeconds: 15/idleTimeoutSeconds: 60/' {STORAGE}/code/raycluster.yaml")

    def measured(what: str, with_ray: bool, **settings: str) -> None:
        began = time.time()
        run, folder = trial_run(5, **settings)
        body = written(installation, f"{folder}/second.begun")
        assert run.state()["type"] in ("RUNNING", "COMPLETED"), run.log()
        ray = of_ray(installation) if with_ray else {}
        show(what, began, of_run(run) | ray | {"body of the first task that needs a CPU": body})
        assert run.wait_for_end() == "COMPLETED"

    measured("a cluster of the run's own", True)
    installation.assert_no_ray()
    measured("a shared cluster, made", True, RAYWORKS_RAY_IDLE_SECONDS="60")
    measured("a shared cluster, warm", False, RAYWORKS_RAY_IDLE_SECONDS="60")
    installation.namespace.kubectl("delete", "rayclusters", "--all")
    installation.assert_no_ray()

    spec = yaml.safe_load(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))["spec"]
    image = installation.namespace.get("deployment", "prefect-worker")["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["image"] = image
    head = spec["headGroupSpec"]["template"]["spec"]
    container = {"name": "submitter", "image": image, "securityContext": head["containers"][0]["securityContext"]}
    submitter = {
        "spec": {"restartPolicy": "Never", "securityContext": head["securityContext"], "containers": [container]}
    }
    file = f"{STORAGE}/{uuid.uuid4().hex[:6]}"
    installation.on_storage(f"cat > {STORAGE}/code/bare.py", detail=BARE)
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "bare"},
        "spec": {
            "entrypoint": f"python {STORAGE}/code/bare.py {file}",
            "rayClusterSpec": spec,
            "submitterPodTemplate": submitter,
        },
    }
    began = time.time()
    installation.namespace.kubectl("apply", "-f", "-", detail=json.dumps(job))
    body = written(installation, file)
    show("a bare RayJob", began, of_ray(installation) | {"body of the first task that needs a CPU": body})
    installation.namespace.kubectl("delete", "rayjob", "bare")
    installation.assert_no_ray()


@pytest.mark.timeout(1800)
def test_tasks_per_second(installation: Installation, trial_run: Any) -> None:
    run, _ = trial_run(1, RAYWORKS_RAY_IDLE_SECONDS="300")
    assert run.wait_for_end() == "COMPLETED"
    [cluster] = installation.clusters()
    installation.on_storage(f"cat > {STORAGE}/code/many.py", detail=MANY)
    head = f"{cluster}-head-svc"
    for what, settings in (
        ("a driver that joined", f"RAYWORKS_RAY_ADDRESS={STORAGE}/code/raycluster.yaml RAYWORKS_RAY_IDLE_SECONDS=300"),
        ("over ray://", f"RAYWORKS_RAY_ADDRESS=ray://{head}:10001"),
    ):
        said = installation.in_a_pod("sh", "-c", f"{settings} python {STORAGE}/code/many.py 2>&1")
        sys.stdout.write(f"\n{what}\n")
        for line in re.findall("RATE (.*)", said):
            sys.stdout.write(f"  {line}\n")


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.exit(pytest.main([__file__, "-q", "-s", "-p", "tests.cluster.conftest", f"--rootdir={root}", *sys.argv[1:]]))
