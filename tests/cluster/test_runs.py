"""Flow runs on a Ray cluster of their own, or a shared one: what they leave, and what the loss of a part costs them."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.conftest import (
    GONE_SECONDS,
    NODE_DOWN,
    NODE_UP,
    START_SECONDS,
    STORAGE,
    Installation,
    away_from,
    lost_node,
    node_names,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]


@dataclass
class Trial:
    """``trial.py`` as a Job, as the Prefect worker makes one for a flow run."""

    installation: Installation
    image: str
    arguments: tuple[str, ...]
    env: dict[str, str]
    node: str | None = None
    name: str = field(default_factory=lambda: f"trial-{uuid.uuid4().hex[:6]}")

    @property
    def folder(self) -> str:
        return f"{STORAGE}/trials/{self.name}"

    def start(self) -> "Trial":
        pool = json.loads((self.installation.folder.parent / "base/work-pool.json").read_text())
        job = pool["job_configuration"]["job_manifest"]
        pod = job["spec"]["template"]["spec"]
        del pod["parallelism"], pod["completions"]  # a Job's; Prefect wants them here
        (container,) = pod["containers"]
        values = {"image": self.image, "image_pull_policy": "IfNotPresent"}
        values |= {"cpu_request": "50m", "memory_request": "400Mi", "memory_limit": "4Gi"}
        text = json.dumps(container | {"args": []})
        container.update(json.loads(re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], text)))
        container["command"] = ["python", f"{STORAGE}/code/trial.py", self.folder, *self.arguments]
        pod["nodeSelector"] = {"kubernetes.io/hostname": self.node} if self.node else {}
        pod["shareProcessNamespace"] = (
            True  # else the program is the first process of its pod, which nobody can kill there
        )
        own = {"RAYWORKS_RAY_ADDRESS": f"{STORAGE}/code/raycluster.yaml"} | self.env
        container["env"] = [one for one in container["env"] if one["name"] not in own]
        container["env"] += [{"name": name, "value": value} for name, value in own.items()]
        job["metadata"] = {"name": self.name}
        job["spec"]["ttlSecondsAfterFinished"] = 60
        self.installation.on_storage(f"mkdir -p {self.folder}")
        self.installation.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(job))
        return self

    def kill(self) -> None:
        """End its program by SIGKILL: even a pod that is deleted by force is asked to end first, and given two seconds."""
        self.installation.namespace.kubectl(
            "exec", f"job/{self.name}", "--", "sh", "-c", f"kill -9 $(cat {self.folder}/pid)"
        )

    def count(self, what: str) -> int:
        """How often a stage began, or ended."""
        said = self.installation.on_storage(f"touch {self.folder}/{what}; wc -l < {self.folder}/{what}")
        return int(said.split()[0])

    def exists(self, what: str) -> bool:
        return bool(self.installation.on_storage(f"ls {self.folder}/{what} 2>/dev/null || true").strip())

    def wait_until(self, what: str) -> None:
        eventually(lambda: self.exists(what) or self._has_ended(), START_SECONDS, f"{what} never came: {self.log()}")
        assert self.exists(what), self.log()

    def _has_ended(self) -> bool:
        status = self.installation.namespace.get("job", self.name)["status"]
        return bool(status.get("succeeded") or status.get("failed"))

    def wait_for_end(self) -> bool:
        """Whether it completed."""
        eventually(self._has_ended, START_SECONDS, f"it did not end: {self.log()}")
        return bool(self.installation.namespace.get("job", self.name)["status"].get("succeeded"))

    def log(self) -> str:
        return self.installation.namespace.kubectl("logs", f"job/{self.name}", "--tail=200", failing=True)


@pytest.fixture
def start(installation: Installation, image: str, trial_code: None) -> Iterator[Callable[..., Trial]]:
    started: list[Trial] = []

    def begin(*arguments: str, node: str | None = None, **env: str) -> Trial:
        started.append(Trial(installation, image, arguments, env, node).start())
        return started[-1]

    yield begin
    for trial in started:
        installation.namespace.kubectl("delete", "job", trial.name, "--ignore-not-found", "--wait=false")
    installation.namespace.kubectl("delete", "rayclusters", "--all", "--wait=true", f"--timeout={GONE_SECONDS}s")


def test_a_run_makes_its_cluster_scales_it_from_zero_and_leaves_its_logs_alone(installation: Installation, start: Any):
    trial = start("1")
    assert trial.wait_for_end(), trial.log()
    log = trial.log()
    installation.assert_no_ray()
    assert "Created RayCluster" in log
    assert "The Ray dashboard is at" in log
    folder = re.search(r"Its logs and events are in (\S+)", log)
    assert folder, log
    kept = installation.on_storage(f"cd {folder[1]} && find . -type f -size +0")
    for name in (
        "raycluster.json",
        "pods.json",
        "events.txt",
        "tasks.json",
        "ray-head.log",
        "ray-worker.log",
        "/worker-",
    ):
        assert name in kept


def test_a_run_that_fails_leaves_nothing(installation: Installation, start: Any):
    trial = start("1", "fail")
    assert not trial.wait_for_end()
    assert "the flow fails" in trial.log()
    installation.assert_no_ray()


def test_a_cancelled_run_leaves_nothing(installation: Installation, start: Any):
    trial = start("600")
    trial.wait_until("second.begun")
    # What the Prefect worker does when a run is cancelled.
    installation.namespace.kubectl("delete", "job", trial.name, "--cascade=foreground", "--wait=false")
    installation.assert_no_ray()


def test_a_killed_run_leaves_nothing(installation: Installation, start: Any):
    trial = start("600")
    trial.wait_until("second.begun")
    trial.kill()
    installation.assert_no_ray()


def test_the_sweep_deletes_what_a_killed_run_left_and_spares_what_is_in_use(installation: Installation, start: Any):
    in_use = start("600")
    killed = start(
        "600", RAYWORKS_JOB_NAME="", RAYWORKS_JOB_UID=""
    )  # so that Kubernetes does not delete its cluster by itself
    for trial in (in_use, killed):
        trial.wait_until("first.ended")
    assert len(installation.clusters()) == 2
    killed.kill()

    def swept() -> bool:
        installation.in_a_pod(
            "python",
            "-c",
            "from rayworks.cluster.kubernetes.sweep import sweep; sweep(storage_uri='/var/lib/rayworks')",
        )
        return len(installation.clusters()) == 1

    eventually(swept, GONE_SECONDS, "the sweep left it")
    in_use.wait_until("second.begun")


def test_two_runs_that_start_together_share_one_cluster_which_ends_when_it_was_idle(
    installation: Installation, start: Any
):
    runs = [start("5", RAYWORKS_RAY_IDLE_SECONDS="20") for _ in range(2)]
    for run in runs:
        assert run.wait_for_end(), run.log()
    assert sum("Created RayCluster" in run.log() for run in runs) == 1
    assert len(installation.clusters()) == 1
    again = start("1", RAYWORKS_RAY_IDLE_SECONDS="20")
    assert again.wait_for_end(), again.log()
    assert "Using the shared RayCluster" in again.log()

    def swept() -> bool:
        installation.in_a_pod(
            "python",
            "-c",
            "from rayworks.cluster.kubernetes.sweep import sweep; sweep(storage_uri='/var/lib/rayworks')",
        )
        return not installation.clusters()

    eventually(swept, GONE_SECONDS, "the idle cluster stays")


def test_a_lost_head_costs_the_stage_that_ran_and_no_finished_one(installation: Installation, start: Any):
    trial = start("600")
    trial.wait_until("second.begun")
    (head,) = installation.ray_pods("head")
    installation.namespace.kubectl("delete", "pod", head, "--grace-period=0", "--force")
    assert trial.wait_for_end(), trial.log()
    assert (trial.count("first.begun"), trial.count("second.begun")) == (1, 2)
    assert "The Ray head is lost" in trial.log()
    installation.assert_no_ray()


def test_a_lost_worker_costs_what_it_worked_on(installation: Installation, start: Any):
    trial = start("600")
    trial.wait_until("second.begun")
    (worker,) = installation.ray_pods("worker")
    installation.namespace.kubectl("delete", "pod", worker, "--grace-period=0", "--force")
    assert trial.wait_for_end(), trial.log()
    assert (trial.count("first.begun"), trial.count("second.begun")) == (1, 2)


@pytest.mark.skipif(NODE_DOWN not in os.environ, reason=f"NODE LOSS IS NOT TESTED: set {NODE_DOWN} and {NODE_UP}")
def test_a_lost_node_with_the_head_costs_the_stage_that_ran(installation: Installation, start: Any):
    first = node_names()[0]
    trial = start("600", node=first, RAYWORKS_RAY_ADDRESS=away_from(installation, first))
    trial.wait_until("second.begun")
    (head,) = installation.ray_pods("head")
    with lost_node(installation.namespace.get("pod", head)["spec"]["nodeName"]):
        assert trial.wait_for_end(), trial.log()
        assert (trial.count("first.begun"), trial.count("second.begun")) == (1, 2)
        eventually(lambda: not installation.clusters(), GONE_SECONDS, "a cluster is left")
