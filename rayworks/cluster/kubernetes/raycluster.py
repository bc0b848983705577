"""A Ray cluster that KubeRay brings up from a manifest: for one run, or shared by many and kept warm."""

import concurrent.futures
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rayworks
from rayworks.cluster.existing import ExistingRay
from rayworks.cluster.kubernetes import api, diagnosis, driver_node, port_forward, post_mortem, raycluster_manifest
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.background_process import BackgroundProcess
from rayworks.cluster.kubernetes.diagnosis import Finding, Snapshot
from rayworks.cluster.kubernetes.lease import USED_ANNOTATION, Hold
from rayworks.errors import ClusterError, ClusterLostError, ParameterError
from rayworks.settings import Settings

POLL_SECONDS = 2
PROGRESS_SECONDS = 15
"""How often a wait says in the log what it waits for."""
LOST_SECONDS = 20
"""How long the head may be unready, or the Kubernetes API silent about it, before the cluster counts as lost."""
GCS_PORT, CLIENT_PORT, DASHBOARD_PORT = 6379, 10001, 8265
LOOPBACK = re.compile(r"://(127\.[\d.]+|localhost|\[?::1\]?)[:/]")

logger = logging.getLogger(__name__)


class KubeRayCluster:
    """The cluster that the manifest ``settings.ray_address`` describes.

    A driver in a pod joins it as a node without CPUs. One outside reaches the client port through a port-forward, and
    its working directory and rayworks travel with it.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address is not None
        self.address = settings.ray_address
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()
        self.is_elsewhere = not api.in_a_pod()
        self.may_grow = True
        self._settings = settings
        self._is_shared = settings.ray_idle_seconds > 0
        self._flow_run_id = os.environ.get("PREFECT__FLOW_RUN_ID")
        self._name = ""
        self._uid = ""
        self._hold: Hold | None = None
        self._ray: ExistingRay | None = None
        self._beside: BackgroundProcess | None = None
        self._dashboard: str | None = None
        self._released = threading.Event()
        self._watcher: threading.Thread | None = None
        self._told: set[tuple[str, str]] = set()

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        self._api = KubernetesApi(self._settings.namespace)
        manifest = raycluster_manifest.read(self.address)
        try:
            cluster = self._shared(manifest) if self._is_shared else self._create(self._made(manifest))
            self._name, self._uid = cluster["metadata"]["name"], cluster["metadata"]["uid"]
            self._hold = Hold(self._api, cluster, secrets.token_hex(4), self._flow_run_id)
            self._hold.start()
            head = self._await_head()
            self._connect(head, environment, init_kwargs)
        except RefusedError as error:
            self.release()
            raise diagnosis.refusal(error.status, error.body, error.what) from error
        except BaseException:
            self.release()
            raise
        self._watcher = threading.Thread(target=self._watch, args=(head,), name="rayworks-cluster", daemon=True)
        self._watcher.start()

    def release(self) -> None:
        self._released.set()
        if self._watcher is not None:
            self._watcher.join(timeout=10)
        steps = (self._disconnect, self._leave)
        # Where the head's node does not answer, Ray takes two minutes to let go, in which the cluster would stay.
        for step in reversed(steps) if self.lost.done() else steps:
            step()
        if self._beside is not None:
            self._beside.end()
            self._beside = None

    def _disconnect(self) -> None:
        if self._ray is not None:
            self._ray.release()
            self._ray = None

    def _leave(self) -> None:
        if self._hold is None:
            return
        try:
            if self._is_shared:
                self._api.annotate_cluster(self._name, {USED_ANNOTATION: datetime.now(UTC).isoformat()})
            else:
                self._delete()
            self._hold.stop()
        except RefusedError as error:
            logger.error(
                "RayCluster %s/%s could not be given back (%s). The sweep flow deletes it, or: kubectl delete raycluster -n %s %s",
                self._api.namespace,
                self._name,
                error,
                self._api.namespace,
                self._name,
            )
        self._hold.lapse()
        self._hold = None

    def _delete(self) -> None:
        dashboard = None if self.lost.done() else self._dashboard
        folder = post_mortem.save(self._api, self._name, storage_uri=self._settings.storage_uri, dashboard=dashboard)
        self._api.delete_cluster(self._name, uid=self._uid)
        logger.info("Deleted RayCluster %s/%s. Its logs and events are in %s", self._api.namespace, self._name, folder)

    # Making it

    def _made(self, manifest: dict[str, Any]) -> dict[str, Any]:
        settings, name = self._settings, manifest["metadata"]["name"][: raycluster_manifest.LONGEST_NAME]
        if raycluster_manifest.lacks_image(manifest) and not settings.image:
            raise ParameterError(
                "a Ray container names no image",
                where=self.address,
                remedy="Set RAYWORKS_IMAGE to the image of this run, or name one in the manifest",
            )
        job = (settings.job_name, settings.job_uid) if settings.job_name and settings.job_uid else None
        needs = raycluster_manifest.Needs(
            name=name if self._is_shared else f"{name.rstrip('-')}-{secrets.token_hex(4)}",
            namespace=self._api.namespace,
            image=settings.image,
            flow_run_id=self._flow_run_id,
            idle_seconds=settings.ray_idle_seconds,
            job=job,
        )
        return raycluster_manifest.for_run(manifest, needs)

    def _create(self, made: dict[str, Any]) -> dict[str, Any]:
        cluster = self._api.create_cluster(made)
        logger.info("Created RayCluster %s/%s", self._api.namespace, made["metadata"]["name"])
        return cluster

    def _shared(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The shared cluster: there already, or made now. The API server lets one of those who come together make it."""
        made = self._made(manifest)
        name, wanted = (
            made["metadata"]["name"],
            made["metadata"]["annotations"][raycluster_manifest.MANIFEST_ANNOTATION],
        )
        deadline = time.monotonic() + self._settings.ray_start_seconds
        while True:
            try:
                return self._create(made)
            except RefusedError as error:
                if error.status != 409:
                    raise
            found = self._api.annotate_cluster(name, {USED_ANNOTATION: datetime.now(UTC).isoformat()})
            if found is not None and "deletionTimestamp" not in found["metadata"]:
                if (found["metadata"].get("annotations") or {}).get(raycluster_manifest.MANIFEST_ANNOTATION) != wanted:
                    raise ClusterError(
                        "the shared cluster was made from another manifest or image",
                        where=f"{self._api.namespace}/{name}",
                        remedy="Give this manifest another name, or delete that cluster when no run uses it",
                    )
                logger.info("Using the shared RayCluster %s/%s", self._api.namespace, name)
                return found
            if time.monotonic() > deadline:
                raise ClusterError(
                    "the shared cluster does not end",
                    where=f"{self._api.namespace}/{name}",
                    remedy=f"See: kubectl describe raycluster -n {self._api.namespace} {name}",
                )
            time.sleep(POLL_SECONDS)

    # Waiting for it

    def _await_head(self) -> dict[str, Any]:
        """The head's pod, once it is ready. Raises ClusterError when it will not be."""
        began, told = time.monotonic(), 0.0
        while True:
            snapshot = self._snapshot()
            head = next((pod for pod in snapshot.pods if _is_head(pod)), None)
            if head is not None and _is_ready(head):
                logger.info("The Ray head %s is ready after %.0f s", head["metadata"]["name"], time.monotonic() - began)
                return head
            found = self._tell(diagnosis.findings(snapshot, datetime.now(UTC)))
            for finding in found:
                if finding.is_final and not finding.group:  # of the head, or of the whole cluster
                    raise diagnosis.error(finding)
            waited = time.monotonic() - began
            if waited > self._settings.ray_start_seconds:
                if found:
                    raise diagnosis.error(found[0])
                raise ClusterError(
                    f"the Ray head was not ready within {waited:.0f} s",
                    where=f"RayCluster {self._api.namespace}/{self._name}",
                    detail=_phase(head),
                    remedy="Set RAYWORKS_RAY_START_SECONDS higher, or see the head's log",
                )
            if waited - told > PROGRESS_SECONDS:
                told = waited
                logger.info("Waiting for the Ray head of %s since %.0f s: %s", self._name, waited, _phase(head))
            time.sleep(POLL_SECONDS)

    def _snapshot(self, *, complete: bool = False) -> Snapshot:
        cluster = self._api.cluster(self._name)
        if cluster is None or cluster["metadata"]["uid"] != self._uid:
            raise ClusterLostError(
                "the RayCluster is gone",
                where=f"{self._api.namespace}/{self._name}",
                remedy="Somebody deleted it: run again",
            )
        pods = self._api.pods(self._name)
        if (
            not complete and pods and all(_is_ready(pod) for pod in pods)
        ):  # what explains a pod that is not is asked for then
            return Snapshot(cluster, tuple(pods))
        return Snapshot(cluster, tuple(pods), tuple(self._api.events()), tuple(self._api.nodes()))

    def _tell(self, found: list[Finding]) -> list[Finding]:
        """Log what was not logged yet."""
        for finding in found:
            if (finding.object, finding.condition) not in self._told:
                self._told.add((finding.object, finding.condition))
                logger.warning("%s", diagnosis.error(finding))
        return found

    # Using it

    def _connect(self, head: dict[str, Any], environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        kwargs = dict(init_kwargs)
        if not self.is_elsewhere:
            ip = head["status"]["podIP"]
            self._beside = driver_node.join(f"{ip}:{GCS_PORT}")
            ray, self._dashboard = ExistingRay(f"{ip}:{GCS_PORT}"), f"http://{ip}:{DASHBOARD_PORT}"
        else:
            service = f"service/{self._name}-head-svc"
            self._beside, ports = port_forward.forward(service, self._api.namespace, (CLIENT_PORT, DASHBOARD_PORT))
            ray, self._dashboard = (
                ExistingRay(f"ray://127.0.0.1:{ports[CLIENT_PORT]}"),
                f"http://127.0.0.1:{ports[DASHBOARD_PORT]}",
            )
            kwargs["runtime_env"] = {**uploaded(Path.cwd()), **(kwargs.get("runtime_env") or {})}
            logger.info(
                "The workers get the files of %s, without what .gitignore names", kwargs["runtime_env"]["working_dir"]
            )
            environment = reachable_from_pods(environment)
        ray.acquire(environment, kwargs)
        self._ray = ray

    def dashboard(self) -> str | None:
        if self._settings.ray_dashboard_url:
            return self._settings.ray_dashboard_url.format(namespace=self._api.namespace, name=self._name)
        if self.is_elsewhere:
            return str(self._dashboard)
        service = f"service/{self._name}-head-svc"
        return f"http://127.0.0.1:8265 after kubectl port-forward -n {self._api.namespace} {service} 8265"

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        try:
            snapshot = self._snapshot(complete=True)
        except (RefusedError, ClusterError):  # the watch tells of that
            snapshot = None
        return diagnosis.out_of_memory(task, str(error), snapshot, datetime.now(UTC))

    def _watch(self, head: dict[str, Any]) -> None:
        """See to it that the end of the cluster ends the wait for its work, with the reason."""
        unready_since: float | None = None
        while not self._released.wait(POLL_SECONDS):
            try:
                snapshot = self._snapshot()
            except ClusterLostError as error:
                self.lost.set_result(error)
                return
            except RefusedError as error:  # the API server restarts, or the way to it is broken; Ray may work on
                logger.warning("The Kubernetes API does not tell how the cluster is: %s", error)
                continue
            now = next((pod for pod in snapshot.pods if _is_head(pod)), None)
            unready_since = None if now and _is_ready(now) else unready_since or time.monotonic()
            is_late = unready_since is not None and time.monotonic() - unready_since > LOST_SECONDS
            if _is_another(head, now) or is_late:
                where = f"Pod {self._api.namespace}/{head['metadata']['name']}"
                remedy = "Run again: finished stages are kept"
                self.lost.set_result(
                    ClusterLostError("the Ray head is lost", where=where, detail=_reason(now), remedy=remedy)
                )
                return
            found = self._tell(diagnosis.findings(snapshot, datetime.now(UTC)))
            ready_groups = {_group(pod) for pod in snapshot.pods if _is_ready(pod)}
            for finding in found:
                if finding.is_final and not finding.is_head and finding.group not in ready_groups:
                    self.lost.set_result(diagnosis.error(finding))
                    return


def uploaded(folder: Path) -> dict[str, Any]:
    """The part of a runtime environment that brings the code and files of ``folder``, and rayworks itself.

    Ray leaves out what ``.gitignore`` names.
    """
    package = Path(rayworks.__file__).resolve().parent
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": [".git", ".venv", "**/__pycache__"]}
    if not package.is_relative_to(folder.resolve()):
        environment["py_modules"] = [str(package)]
    return environment


def reachable_from_pods(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what only the driver's machine has; the pods' own environment says it instead."""
    own = {"PREFECT_API_URL", "RAYWORKS_STORAGE_URI", "RAYWORKS_MLFLOW_TRACKING_URI"}
    return {
        name: value
        for name, value in environment.items()
        if name not in own
        or ("://" in value and not LOOPBACK.search(value) and not value.startswith(("file://", "sqlite:")))
    }


def _is_head(pod: Mapping[str, Any]) -> bool:
    return pod["metadata"]["labels"].get("ray.io/node-type") == "head"


def _group(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["labels"].get("ray.io/group", "")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _is_another(before: Mapping[str, Any], now: Mapping[str, Any] | None) -> bool:
    """Whether the head that was connected to is gone, or has started anew without its memory."""
    if now is None or now["metadata"]["uid"] != before["metadata"]["uid"] or "deletionTimestamp" in now["metadata"]:
        return True
    return _starts(now) != _starts(before) or now["status"].get("phase") in ("Failed", "Succeeded")


def _starts(pod: Mapping[str, Any]) -> list[int]:
    return [status["restartCount"] for status in pod["status"].get("containerStatuses") or []]


def _phase(pod: Mapping[str, Any] | None) -> str:
    if pod is None:
        return "KubeRay has made no pod yet"
    for status in pod["status"].get("containerStatuses") or []:
        if waiting := (status.get("state") or {}).get("waiting"):
            return f"{pod['metadata']['name']} is {pod['status'].get('phase')}, {waiting.get('reason')}"
    return f"{pod['metadata']['name']} is {pod['status'].get('phase')}, not ready"


def _reason(pod: Mapping[str, Any] | None) -> str:
    """Why a head is lost, as far as Kubernetes tells."""
    if pod is None:
        return "its pod is gone"
    for status in pod["status"].get("containerStatuses") or []:
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            if ended := state.get("terminated"):
                return f"container {status['name']} ended: {ended.get('reason')}, exit code {ended.get('exitCode')}"
    if reason := pod["status"].get("reason"):
        return f"{reason}: {pod['status'].get('message', '')}"
    if "deletionTimestamp" in pod["metadata"]:
        return "its pod is being deleted"
    conditions = [condition for condition in pod["status"].get("conditions") or [] if condition["type"] == "Ready"]
    said = next((str(condition.get("message") or condition.get("reason") or "") for condition in conditions), "")
    return said or "it is not ready, and nothing says why: its node may not answer"
