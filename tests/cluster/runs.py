"""Runs in an installation: flow runs that the Prefect worker starts, programs in a Job, and the Ray of each."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rayworks.cluster.kubernetes.raycluster_manifest import FLOW_RUN_LABEL
from tests.cluster.kubernetes_access import START_SECONDS, Namespace
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.installation import Installation

DELETION_SECONDS = 120
"""Within which the RayCluster of a run must be deleted, however the run ended."""
SWEEP_SECONDS = 240
"""Within which the sweep must have deleted an abandoned RayCluster. Its Lease expires after 30 s, the sweep runs every
minute, checks twice, and saves logs."""
TWO_RENEWALS_SECONDS = 460
"""A run renews the lease of its deployment's concurrency limit at its start and then every 225 s: three quarters of the
300 s in ``prefect.flow_engine``."""
FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LOG_SECONDS = 60
"""Within which the log of a flow run must be whole: its process sends the last lines when it ends."""


@dataclass(frozen=True)
class RayOfRun:
    """The RayClusters of a run and their pods.

    A cluster belongs to the run when it has its flow-run label, or a name that only the run's manifest gives.
    """

    namespace: Namespace
    flow_run_id: str | None = None
    cluster_name: str | None = None
    """The name in the run's own manifest, where it has one."""

    def _owns(self, cluster_name: str, labels: dict[str, str]) -> bool:
        is_named = self.cluster_name is not None and cluster_name.startswith(self.cluster_name)
        return is_named or (self.flow_run_id is not None and labels.get(FLOW_RUN_LABEL) == self.flow_run_id)

    def clusters(self) -> list[str]:
        """Return the names of the RayClusters."""
        found = [cluster["metadata"] for cluster in self.namespace.list("rayclusters")]
        return [metadata["name"] for metadata in found if self._owns(metadata["name"], metadata.get("labels", {}))]

    def pods(self, kind: str) -> list[dict[str, Any]]:
        """Return the pods of the Ray ``head``, or of each ``worker``, that are not being deleted."""
        pods = self.namespace.list("pods", f"ray.io/node-type={kind}")
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return [
            pod for pod in alive if self._owns(pod["metadata"]["labels"]["ray.io/cluster"], pod["metadata"]["labels"])
        ]

    def kill_pods(self, kind: str) -> None:
        """Delete its pods of a kind by force."""
        names = [pod["metadata"]["name"] for pod in self.pods(kind)]
        assert names, f"no {kind} to kill"
        self.namespace.kubectl("delete", "pod", *names, "--grace-period=0", "--force", "--wait=false")

    def assert_deleted(self, seconds: float = DELETION_SECONDS) -> None:
        """No RayCluster of the run and no pod of one is left, soon."""

        def is_deleted() -> bool:
            return not self.clusters() and not self.pods("head") and not self.pods("worker")

        eventually(is_deleted, seconds, lambda: f"left: {self.clusters()}", every=2)


@dataclass(frozen=True)
class FlowRun:
    """A flow run, as the Prefect server of an installation knows it."""

    installation: "Installation"
    id: str
    folder: str = ""
    """Of a run of the two-stage flow: where its stages report."""
    cluster_name: str | None = None
    """The name in its own RayCluster manifest, where it has one."""

    @property
    def ray(self) -> RayOfRun:
        return RayOfRun(self.installation.namespace, self.id, self.cluster_name)

    def state(self) -> dict[str, Any]:
        return self.installation.prefect("GET", f"/flow_runs/{self.id}")["state"]

    def set_state(self, **state: Any) -> None:
        """Cancel it, or run it again, as the UI does."""
        self.installation.prefect("POST", f"/flow_runs/{self.id}/set_state", {"state": state})

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods that run the flow itself."""
        return self.installation.namespace.list("pods", f"prefect.io/flow-run-id={self.id}")

    def wait_for_end(self, seconds: float = START_SECONDS) -> str:
        """Return the type of its last state, once its log is whole."""

        def final() -> str | None:
            state_type = self.state()["type"]
            return state_type if state_type in FINAL_STATES else None

        state_type = eventually(final, seconds, f"flow run {self.id} did not end", every=1)
        if state_type in ("COMPLETED", "FAILED"):  # by its own process, whose last line says so
            eventually(lambda: "Finished in state" in self.log(), LOG_SECONDS, self.log)
        return state_type

    def wait_for(self, file: str) -> None:
        """Return once a stage of the two-stage flow has reported ``file``, such as ``second.started``."""

        def has_reported() -> bool:
            has_ended = self.state()["type"] in FINAL_STATES
            is_there = self.installation.exists(f"{self.folder}/{file}")
            assert is_there or not has_ended, self.log()
            return is_there

        eventually(has_reported, START_SECONDS, f"{file} never came", every=2)

    def count(self, file: str) -> int:
        """Return how often a stage of the two-stage flow started, or ended."""
        return self.installation.count_lines(f"{self.folder}/{file}")

    def task_runs(self) -> dict[str, str]:
        """Return the type of the state of each task run, by its task's name."""
        runs = self.installation.prefect("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [self.id]}}})
        return {run["name"].rpartition("-")[0]: run["state_type"] for run in runs}

    def log(self) -> str:
        """Return all that it logged."""
        return "\n".join(message for _, message in self.log_lines())

    def log_lines(self) -> list[tuple[datetime, str]]:
        """Return when it logged what."""
        query: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [self.id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        lines: list[tuple[datetime, str]] = []
        while page := self.installation.prefect("POST", "/logs/filter", query | {"offset": len(lines)}):
            lines += [(datetime.fromisoformat(line["timestamp"]), line["message"]) for line in page]
        return lines


@dataclass
class JobRun:
    """``two_stages.py`` as a program in a Job, as the Prefect worker creates one for a flow run."""

    installation: "Installation"
    arguments: tuple[str, ...]
    env: dict[str, str]
    cluster_name: str
    """The name in its RayCluster manifest."""
    node: str | None = None
    name: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex[:6]}")
    _final_log: str | None = None

    @property
    def folder(self) -> str:
        """Where its stages report."""
        return f"{self.installation.storage}/runs/{self.name}"

    @property
    def ray(self) -> RayOfRun:
        return RayOfRun(self.installation.namespace, cluster_name=self.cluster_name)

    def start(self) -> "JobRun":
        """Create its Job."""
        job, pod = self.installation.job_template(memory_request="400Mi", memory_limit="4Gi")
        (container,) = pod["containers"]
        container["command"] = ["python", f"{self.installation.code}/two_stages.py", self.folder, *self.arguments]
        container.pop("args")
        pod["nodeSelector"] = {"kubernetes.io/hostname": self.node} if self.node else {}
        pod["shareProcessNamespace"] = True  # the first process of a pod cannot be killed from within it
        env = {"RAYWORKS_RAY_ADDRESS": self.installation.manifest(self.cluster_name)} | self.env
        container["env"] = [variable for variable in container["env"] if variable["name"] not in env]
        container["env"] += [{"name": name, "value": value} for name, value in env.items()]
        job["metadata"] = {"name": self.name}
        job["spec"]["ttlSecondsAfterFinished"] = 60
        self.installation.on_storage(f"mkdir -p {self.folder}")
        self.installation.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(job))
        return self

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods of the Job."""
        return self.installation.namespace.list("pods", f"batch.kubernetes.io/job-name={self.name}")

    def kill(self) -> None:
        """End its program by SIGKILL. A pod that is deleted by force gets a SIGTERM and two seconds first."""
        kill = f"kill -9 $(cat {self.folder}/pid)"
        self.installation.namespace.kubectl("exec", f"job/{self.name}", "--", "sh", "-c", kill)

    def delete(self) -> None:
        """Delete the Job, and the RayClusters of its manifest."""
        self.installation.namespace.kubectl("delete", "job", self.name, "--ignore-not-found", "--wait=false")
        if clusters := self.ray.clusters():
            self.installation.namespace.kubectl("delete", "rayclusters", *clusters, "--ignore-not-found")

    def count(self, file: str) -> int:
        """Return how often a stage started, or ended."""
        return self.installation.count_lines(f"{self.folder}/{file}")

    def wait_for(self, file: str) -> None:
        """Return once a stage has reported ``file``, such as ``second.started``."""

        def has_reported() -> bool:
            has_ended = self._has_ended()
            is_there = self.installation.exists(f"{self.folder}/{file}")
            assert is_there or not has_ended, self.log()
            return is_there

        eventually(has_reported, START_SECONDS, f"{file} of {self.name} never came", every=2)

    def _status(self) -> dict[str, Any]:
        return self.installation.namespace.read("jobs", self.name)["status"]

    def _has_ended(self) -> bool:
        status = self._status()
        return bool(status.get("succeeded") or status.get("failed"))

    def wait_for_end(self) -> bool:
        """Return whether it completed."""
        eventually(self._has_ended, START_SECONDS, f"{self.name} did not end", every=1)
        has_completed = bool(self._status().get("succeeded"))
        self._final_log = self.log()  # Kubernetes deletes the Job, and its log, after a minute
        return has_completed

    def log(self) -> str:
        """Return its last 200 lines."""
        if self._final_log is not None:
            return self._final_log
        return self.installation.namespace.kubectl("logs", f"job/{self.name}", "--tail=200", check=False)


@contextmanager
def flow_runs(installation: "Installation") -> Iterator[Callable[..., FlowRun]]:
    """Yield :func:`start_flow_run` in an installation; what has not ended with the block is cancelled."""
    started: list[FlowRun] = []

    def start(seconds: float, **options: Any) -> FlowRun:
        started.append(start_flow_run(installation, seconds, **options))
        return started[-1]

    try:
        yield start
    finally:
        for run in started:
            if run.state()["type"] not in FINAL_STATES:
                run.set_state(type="CANCELLING")


@contextmanager
def jobs(installation: "Installation") -> Iterator[Callable[..., JobRun]]:
    """Yield :func:`start_job` in an installation; what is started is deleted after the block."""
    started: list[JobRun] = []

    def start(*arguments: str, **options: Any) -> JobRun:
        started.append(start_job(installation, *arguments, **options))
        return started[-1]

    try:
        yield start
    finally:
        for run in started:
            run.delete()


def start_flow_run(
    installation: "Installation",
    seconds: float,
    pods: dict[str, Any] | None = None,
    workers: dict[str, Any] | None = None,
    cluster_name: str | None = None,
    **env: str,
) -> FlowRun:
    """Start the flow of two stages as a deployment, on a RayCluster from a manifest that only this run has.

    Args:
        installation: Where it runs.
        seconds: How long its second stage works.
        pods: What to change in the manifest's pods.
        workers: What to change in the manifest's worker pods.
        cluster_name: Of a manifest that exists, in place of a manifest that only this run has.
        env: More environment variables of the flow run.
    """
    name = f"run-{uuid.uuid4().hex[:6]}"
    if cluster_name is None:
        cluster_name = name
        installation.write_manifest(cluster_name, pods, workers)
    folder = f"{installation.storage}/runs/{name}"
    installation.on_storage(f"mkdir -p {folder}")
    env = {"RAYWORKS_RAY_ADDRESS": installation.manifest(cluster_name)} | env
    parameters = {"folder": folder, "seconds": seconds}
    return installation.start("two-stages/two-stages", parameters, env, folder=folder, cluster_name=cluster_name)


def start_job(
    installation: "Installation",
    *arguments: str,
    node: str | None = None,
    pods: dict[str, Any] | None = None,
    cluster_name: str | None = None,
    has_dashboard: bool = False,
    **env: str,
) -> JobRun:
    """Start ``two_stages.py`` as the program of a Job, on a RayCluster from a manifest that only this run has.

    Args:
        installation: Where it runs.
        arguments: Of the program, after the folder.
        node: Where its own pod runs; any by default.
        pods: What to change in the manifest's pods.
        cluster_name: Of a manifest that exists, in place of a manifest that only this run has.
        has_dashboard: Whether the head of its manifest has Ray's dashboard.
        env: More environment variables of the program.
    """
    if cluster_name is None:
        cluster_name = f"job-{uuid.uuid4().hex[:6]}"
        installation.write_manifest(cluster_name, pods, has_dashboard=has_dashboard)
    return JobRun(installation, arguments, env, cluster_name, node).start()
