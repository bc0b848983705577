"""An installation of rayworks in a namespace: ``deployments/kubernetes`` with a small overlay."""

import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kubernetes_access import START_SECONDS, Namespace
from tests.cluster.nodes import NODE_DOWN
from tests.cluster.runs import FlowRun
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
STORAGE = "/var/lib/rayworks"
CODE = f"{STORAGE}/code"
CLAIMS = ("rayworks-storage", "prefect-server")
"""Of the volumes that the installation needs."""
WORKLOADS = (
    "statefulset/postgres",
    *(f"deployment/{name}" for name in ("prefect-server", "mlflow", "prefect-worker", "sweep")),
)


@dataclass(frozen=True)
class Installation:
    """A working installation.

    Attributes:
        namespace: Its namespace.
        base: The folder with the manifests as they are shipped.
    """

    namespace: Namespace
    base: Path
    storage: str = STORAGE
    code: str = CODE
    """A folder on the storage with the flow of two stages."""

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        """Return the response of Prefect's API."""
        response = self.namespace.request("prefect-server", 4200, method, f"/api{path}", body)
        return response.json() if response.content else None

    def start(self, deployment: str, parameters: dict[str, Any], env: dict[str, str], **run: Any) -> FlowRun:
        """Start a deployment, as Prefect's UI does; ``run`` is what else the tests know of the flow run."""
        deployment_id = self.prefect("GET", f"/deployments/name/{deployment}")["id"]
        body = {"parameters": parameters, "job_variables": {"env": env}, "state": {"type": "SCHEDULED"}}
        flow_run = self.prefect("POST", f"/deployments/{deployment_id}/create_flow_run", body)
        return FlowRun(self, flow_run["id"], **run)

    def on_storage(self, script: str, stdin: str | None = None) -> str:
        """Return the output of a shell script that runs where the shared storage is mounted."""
        interactive = ["-i"] if stdin is not None else []
        return self.namespace.kubectl("exec", *interactive, "deployment/mlflow", "--", "sh", "-c", script, stdin=stdin)

    def exists(self, pattern: str) -> bool:
        """Return whether a file on the storage matches.

        Tests poll this. Where this machine sees the storage, it costs nothing; ``kubectl exec`` takes a third of a
        second of CPU time.
        """
        if folder := self._storage_on_this_machine():
            return any(folder.glob(pattern.removeprefix(f"{self.storage}/")))
        return bool(self.on_storage(f"ls -d {pattern} 2>/dev/null || true").strip())

    def _storage_on_this_machine(self) -> Path | None:
        folder = Path(_shared_folder() or "/nowhere") / self.namespace.name / "rayworks-storage"
        return folder if folder.is_dir() else None

    def count_lines(self, file: str) -> int:
        """Return how many lines a file on the storage has; none when it does not exist."""
        return int(self.on_storage(f"cat {file} 2>/dev/null | wc -l"))

    def job_template(self, **variables: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the work pool's Job with variables filled in, and the pod in it."""
        worker = self.namespace.read("deployments", "prefect-worker")["spec"]["template"]["spec"]["containers"][0]
        values = {"image": worker["image"], "image_pull_policy": "IfNotPresent", "cpu_request": "250m"} | variables
        job = json.loads((self.base / "base/work-pool.json").read_text())["job_configuration"]["job_manifest"]
        pod = job["spec"]["template"]["spec"]
        del pod["parallelism"], pod["completions"]  # a Job's; Prefect wants them here
        text = json.dumps(pod["containers"][0] | {"args": []})
        pod["containers"] = [json.loads(re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], text))]
        return job, pod

    def run_in_a_pod(self, *command: str) -> str:
        """Return the output of a command in a pod with a flow run's service account, settings and storage."""
        job, spec = self.job_template(memory_request="256Mi", memory_limit="2Gi")
        spec["containers"][0]["args"] = command
        name = f"command-{uuid.uuid4().hex[:6]}"
        metadata = job["spec"]["template"]["metadata"] | {"name": name}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

        def final_phase() -> str | None:
            phase = self.namespace.read("pods", name)["status"]["phase"]
            return phase if phase in ("Succeeded", "Failed") else None

        phase = eventually(final_phase, START_SECONDS, f"{' '.join(command)} did not end", every=0.5)
        output = self.namespace.kubectl("logs", name)
        self.namespace.kubectl("delete", "pod", name, "--wait=false")
        assert phase == "Succeeded", output
        return output

    def manifest(self, cluster_name: str) -> str:
        """Return the path on the storage of the RayCluster manifest with a name."""
        return f"{self.code}/{cluster_name}.yaml"

    def write_manifest(
        self,
        cluster_name: str,
        pods: dict[str, Any] | None = None,
        workers: dict[str, Any] | None = None,
        *,
        has_dashboard: bool = False,
    ) -> str:
        """Write a small RayCluster manifest to the storage: as it is shipped, with smaller pods and one worker group.

        Args:
            cluster_name: Its name.
            pods: What to change in the pods of all groups.
            workers: What to change in the pods of the workers.
            has_dashboard: Whether its head has Ray's dashboard, a dozen processes, and each node a log monitor, which
                sends what workers print to the driver. They cost a tenth of two cores.

        Returns:
            The manifest.
        """
        manifest = yaml.safe_load((self.base / "base/raycluster.yaml").read_text())
        manifest["metadata"]["name"] = cluster_name
        spec = manifest["spec"]
        [group, *_] = spec["workerGroupSpecs"]
        group["maxReplicas"] = 1
        group["rayStartParams"]["num-cpus"] = "1"
        spec["workerGroupSpecs"] = [group]
        head, worker = spec["headGroupSpec"]["template"]["spec"], group["template"]["spec"]
        if not has_dashboard:
            no_log_monitor = {"include-log-monitor": "0"}  # KubeRay leaves out most options that are "false"
            spec["headGroupSpec"]["rayStartParams"] |= {"include-dashboard": "false"} | no_log_monitor
            group["rayStartParams"] |= no_log_monitor
        # A head starts six processes: of the CPU time that all pods share, it takes the most.
        head["containers"][0]["resources"] = small_pod(cpu="500m")
        worker["containers"][0]["resources"] = small_pod()
        for pod in (head, worker):
            pod.update(pods or {})
        worker.update(workers or {})
        text = yaml.safe_dump(manifest)
        self.on_storage(f"cat > {self.manifest(cluster_name)}", stdin=text)
        return text


def small_pod(cpu: str = "100m") -> dict[str, Any]:
    """Return the resources of a Ray pod that shares two cores with many others."""
    return {"requests": {"cpu": cpu, "memory": "500Mi"}, "limits": {"memory": "3Gi"}}


def away_from(node: str) -> dict[str, Any]:
    """Return the affinity of a pod that runs on any other node."""
    elsewhere = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [elsewhere]}}}


def prepare(namespace: Namespace, folder: Path) -> Path:
    """Write an overlay to ``kubectl apply -k``: the installation as shipped, in the namespace, with little storage.

    Returns:
        The folder of the overlay; beside it is ``base``, with the manifests as they are shipped.
    """
    shutil.copytree(ROOT / "deployments/kubernetes", folder / "base", ignore=shutil.ignore_patterns("postgres.env"))
    (folder / "base/postgres.env").write_text(f"POSTGRES_PASSWORD={uuid.uuid4().hex}\n")
    (folder / "overlay").mkdir()
    postgres = os.environ.get("RAYWORKS_TEST_POSTGRES_IMAGE", "postgres:16")
    roles = f"{namespace.name}-nodes-reader"  # of the whole cluster, so beside other installations'
    no_claim = {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {"name": "data", "emptyDir": {}}}
    overlay: dict[str, Any] = {
        "namespace": namespace.name,
        "resources": ["../base"],
        "images": [_image("rayworks", namespace.cluster.image), _image("postgres", postgres)],
        "patches": [
            _patch("ClusterRole", {"op": "replace", "path": "/metadata/name", "value": roles}),
            _patch("ClusterRoleBinding", {"op": "replace", "path": "/metadata/name", "value": roles}),
            _patch("ClusterRoleBinding", {"op": "replace", "path": "/roleRef/name", "value": roles}),
            _patch("StatefulSet", {"op": "remove", "path": "/spec/volumeClaimTemplates"}, no_claim),
        ],
    }
    if NODE_DOWN in os.environ:  # a node that is lost holds none of the servers
        first = {"kubernetes.io/hostname": namespace.cluster.node_names()[0]}
        pin = {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": first}
        overlay["patches"] += [_patch(kind, pin) for kind in ("Deployment", "StatefulSet")]
    if shared := _shared_folder():
        volumes = {claim: f"{namespace.name}-{claim}" for claim in CLAIMS}
        folders = {claim: f"{namespace.name}/{claim}" for claim in CLAIMS}
        namespace.cluster.run_on_a_node(shared, f"mkdir -p -m 0777 {namespace.name} {' '.join(folders.values())}")
        manifests = [_volume(volume, f"{shared}/{folders[claim]}") for claim, volume in volumes.items()]
        (folder / "overlay/volumes.yaml").write_text(yaml.safe_dump_all(manifests))
        overlay["resources"].append("volumes.yaml")
        for claim, volume in volumes.items():
            bind = {"storageClassName": "", "volumeName": volume}
            operations = [{"op": "add", "path": f"/spec/{name}", "value": value} for name, value in bind.items()]
            overlay["patches"].append(_patch("PersistentVolumeClaim", *operations, name=claim))
    (folder / "overlay/kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder / "overlay"


def install(installation: Installation, overlay: Path) -> None:
    """Apply the overlay, wait until every server is ready, and put the flow of two stages on the storage."""
    installation.namespace.kubectl("apply", "-k", str(overlay))
    for workload in WORKLOADS:
        installation.namespace.kubectl("rollout", "status", workload, f"--timeout={START_SECONDS}s")
    program = (Path(__file__).parent / "two_stages.py").read_text()
    installation.on_storage(f"mkdir -p {CODE} && cat > {CODE}/two_stages.py", stdin=program)
    flow = installation.prefect("POST", "/flows/", {"name": "two-stages"})
    deployment = {
        "name": "two-stages",
        "flow_id": flow["id"],
        "entrypoint": "two_stages.py:two_stages",
        "work_pool_name": "kubernetes",
        "concurrency_limit": 100,  # so that its runs hold a lease
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": CODE}}],
    }
    installation.prefect("POST", "/deployments/", deployment)


def remove(namespace: Namespace) -> None:
    """Delete the namespace, and what an installation has outside of it, without waiting for the end of its pods."""
    namespace.delete()
    cluster, roles = namespace.cluster, f"{namespace.name}-nodes-reader"
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", roles, "--ignore-not-found")
    if shared := _shared_folder():
        volumes = [f"{namespace.name}-{claim}" for claim in CLAIMS]
        cluster.kubectl("delete", "persistentvolume", *volumes, "--ignore-not-found", "--wait=false")
        cluster.run_on_a_node(shared, f"rm -rf {namespace.name}")


def _shared_folder() -> str | None:
    return os.environ.get("RAYWORKS_TEST_SHARED_FOLDER")


def _image(name: str, reference: str) -> dict[str, str]:
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:  # no tag, but a registry's port
        return {"name": name, "newName": reference}
    return {"name": name, "newName": repository, "newTag": tag}


def _patch(kind: str, *operations: dict[str, Any], **target: str) -> dict[str, Any]:
    return {"target": {"kind": kind, **target}, "patch": yaml.safe_dump(list(operations))}


def _volume(name: str, path: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "capacity": {"storage": "100Gi"},
            "hostPath": {"path": path, "type": "Directory"},
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
