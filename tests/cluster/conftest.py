"""One installation, in a namespace of its own, on a real cluster with KubeRay.

The tests know its kubeconfig (``KUBECONFIG``) and the project's image (``RAYWORKS_TEST_IMAGE``), and may be told
``RAYWORKS_TEST_POSTGRES_IMAGE`` (``postgres:16`` by default) and ``RAYWORKS_TEST_SHARED_FOLDER``, a folder that all nodes
share; without that the cluster's default storage class must offer ReadWriteMany. ``RAYWORKS_TEST_NODE_DOWN`` and
``RAYWORKS_TEST_NODE_UP`` are commands that take the name of a node and make it a dead machine, and a live one again; without
them, what the loss of a node costs is not tested. They need ``kubectl``.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
STORAGE = "/var/lib/rayworks"
START_SECONDS = 600
NODE_DOWN, NODE_UP = "RAYWORKS_TEST_NODE_DOWN", "RAYWORKS_TEST_NODE_UP"
GONE_SECONDS = 120
"""Within which a RayCluster must be gone whose run ended, however it ended."""


@dataclass(frozen=True)
class Namespace:
    """A namespace, and ``kubectl`` in it."""

    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None, failing: bool = False) -> str:
        """What a command prints, with ``stdin`` as its input. An assertion fails with what it says when it fails, unless it may."""
        command = ["kubectl", "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert failing or done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def get(self, *what: str) -> Any:
        """An object, or a list of them, as Kubernetes tells it."""
        return json.loads(self.kubectl("get", *what, "--output=json"))

    @contextmanager
    def port(self, service: str, port: int) -> Iterator[str]:
        """The address on this machine that leads to a service's port."""
        command = ["kubectl", "--namespace", self.name, "port-forward", f"service/{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout
            try:
                found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
                assert found, f"no port-forward to {service}"
                yield found.group()
            finally:
                process.terminate()


@dataclass(frozen=True)
class Installation:
    """``deployments/kubernetes`` in a namespace, with a small overlay."""

    namespace: Namespace
    folder: Path

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What Prefect's API answers."""
        with self.namespace.port("prefect-server", 4200) as address:
            answer = httpx.request(method, f"http://{address}/api{path}", json=body, timeout=60)
        return answer.raise_for_status().json() if answer.content else answer.raise_for_status()

    def start(self, deployment: str, parameters: dict[str, Any], env: dict[str, str]) -> "FlowRun":
        """Start a deployment, as Prefect's UI does."""
        found = self.ask("GET", f"/deployments/name/{deployment}")
        question = {"parameters": parameters, "job_variables": {"env": env}, "state": {"type": "SCHEDULED"}}
        return FlowRun(self, self.ask("POST", f"/deployments/{found['id']}/create_flow_run", question)["id"])

    def clusters(self) -> list[str]:
        """The names of the RayClusters."""
        return [one["metadata"]["name"] for one in self.namespace.get("rayclusters")["items"]]

    def ray_pods(self, kind: str) -> list[str]:
        """The names of the pods that are the Ray ``head`` or a ``worker``, and are not being deleted."""
        found = self.namespace.get("pods", f"--selector=ray.io/node-type={kind}")["items"]
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def assert_no_ray(self) -> None:
        """No RayCluster and no pod of one is left, soon."""

        def is_gone() -> bool:
            return not self.clusters() and not self.ray_pods("head") and not self.ray_pods("worker")

        eventually(is_gone, GONE_SECONDS, f"left: {self.clusters()}")

    def on_storage(self, script: str, stdin: str | None = None) -> str:
        """What a shell script prints, with ``stdin`` as its input, where the shared storage is mounted."""
        given = ["-i"] if stdin is not None else []
        return self.namespace.kubectl("exec", *given, "deployment/mlflow", "--", "sh", "-c", script, stdin=stdin)

    def in_a_pod(self, *command: str) -> str:
        """What a command prints in a pod such as flow runs have: their service account, settings and storage."""
        pool = json.loads((self.folder.parent / "base/work-pool.json").read_text())
        template = pool["job_configuration"]["job_manifest"]["spec"]["template"]
        del template["spec"]["parallelism"], template["spec"]["completions"]  # a Job's; Prefect wants them here
        worker = self.namespace.get("deployment", "prefect-worker")["spec"]["template"]["spec"]["containers"][0]
        values = {"image": worker["image"], "image_pull_policy": "IfNotPresent"}
        values |= {"cpu_request": "50m", "memory_request": "256Mi", "memory_limit": "2Gi"}
        template["spec"]["containers"][0]["args"] = command
        text = re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], json.dumps(template))
        name = f"command-{uuid.uuid4().hex[:6]}"
        pod = json.loads(text) | {"apiVersion": "v1", "kind": "Pod"}
        pod["metadata"]["name"] = name
        self.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

        def phase() -> str | None:
            now = self.namespace.get("pod", name)["status"]["phase"]
            return now if now in ("Succeeded", "Failed") else None

        ended = eventually(phase, START_SECONDS, f"{' '.join(command)} did not end")
        said = self.namespace.kubectl("logs", name)
        self.namespace.kubectl("delete", "pod", name, "--wait=false")
        assert ended == "Succeeded", said
        return said


@dataclass(frozen=True)
class FlowRun:
    """A flow run, as the server of an installation knows it."""

    installation: Installation
    id: str

    def state(self) -> dict[str, Any]:
        return self.installation.ask("GET", f"/flow_runs/{self.id}")["state"]

    def set_state(self, **state: Any) -> None:
        """Cancel it, or run it again, as the UI does."""
        self.installation.ask("POST", f"/flow_runs/{self.id}/set_state", {"state": state})

    def wait_for_end(self, seconds: float = START_SECONDS) -> str:
        """The type of its last state."""

        def end() -> str | None:
            now = self.state()["type"]
            return now if now in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return eventually(end, seconds, f"flow run {self.id} did not end", every=3)

    def task_runs(self) -> dict[str, str]:
        """The type of the state of each task run, by its task's name."""
        runs = self.installation.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [self.id]}}})
        return {run["name"].rpartition("-")[0]: run["state_type"] for run in runs}

    def log(self) -> str:
        """All that it logged."""
        return "\n".join(message for _, message in self.lines())

    def lines(self) -> list[tuple[datetime, str]]:
        """When it logged what."""
        question: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [self.id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        lines: list[tuple[datetime, str]] = []
        while more := self.installation.ask("POST", "/logs/filter", question | {"offset": len(lines)}):
            lines += [(datetime.fromisoformat(line["timestamp"]), line["message"]) for line in more]
        return lines


@pytest.fixture(scope="session")
def image() -> str:
    """The project's image, as the cluster names it."""
    if not os.environ.get("KUBECONFIG") or not os.environ.get("RAYWORKS_TEST_IMAGE"):
        pytest.skip(
            "NOT TESTED ON KUBERNETES: set KUBECONFIG, and RAYWORKS_TEST_IMAGE to an image that the cluster can pull"
        )
    return os.environ["RAYWORKS_TEST_IMAGE"]


@pytest.fixture(scope="session")
def namespace(image: str) -> Iterator[Namespace]:
    """A fresh namespace; deleted afterwards, with all that is in it."""
    fresh = Namespace(f"rw-test-{uuid.uuid4().hex[:5]}")
    fresh.kubectl("create", "namespace", fresh.name)
    yield fresh
    fresh.kubectl("delete", "namespace", fresh.name, "--wait", "--timeout=120s")


@pytest.fixture(scope="session")
def overlay(namespace: Namespace, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to ``kubectl apply -k``: the installation as it is shipped, in the namespace, with little storage."""
    folder = tmp_path_factory.mktemp("installation")
    shutil.copytree(ROOT / "deployments/kubernetes", folder / "base", ignore=shutil.ignore_patterns("postgres.env"))
    (folder / "base/postgres.env").write_text(f"POSTGRES_PASSWORD={uuid.uuid4().hex}\n")
    postgres = os.environ.get("RAYWORKS_TEST_POSTGRES_IMAGE", "postgres:16")
    document: dict[str, Any] = {
        "namespace": namespace.name,
        "resources": ["../base"],
        "images": [_image("rayworks", image), _image("postgres", postgres)],
        "patches": [
            # Of the whole cluster, so beside other installations'.
            *(
                {"target": {"kind": kind}, "patch": _replace("/metadata/name", f"{namespace.name}-nodes-reader")}
                for kind in ("ClusterRole", "ClusterRoleBinding")
            ),
            {
                "target": {"kind": "ClusterRoleBinding"},
                "patch": _replace("/roleRef/name", f"{namespace.name}-nodes-reader"),
            },
            {
                "target": {"kind": "StatefulSet"},
                "patch": yaml.safe_dump(
                    [
                        {"op": "remove", "path": "/spec/volumeClaimTemplates"},
                        {
                            "op": "add",
                            "path": "/spec/template/spec/volumes/-",
                            "value": {"name": "data", "emptyDir": {}},
                        },
                    ]
                ),
            },
        ],
    }
    if NODE_DOWN in os.environ:  # the nodes that are to die hold none of the servers
        spread = {
            "op": "add",
            "path": "/spec/template/spec/nodeSelector",
            "value": {"kubernetes.io/hostname": node_names()[0]},
        }
        document["patches"] += [
            {"target": {"kind": kind}, "patch": yaml.safe_dump([spread])} for kind in ("Deployment", "StatefulSet")
        ]
    shared = os.environ.get("RAYWORKS_TEST_SHARED_FOLDER")
    if shared:
        _on_a_node(image, shared, f"mkdir -m 0777 {namespace.name}")
        (folder / "overlay").mkdir()
        (folder / "overlay/volume.yaml").write_text(
            yaml.safe_dump(_volume(namespace.name, f"{shared}/{namespace.name}"))
        )
        document["resources"].append("volume.yaml")
        document["patches"].append(
            {
                "target": {"kind": "PersistentVolumeClaim"},
                "patch": yaml.safe_dump(
                    [
                        {"op": "add", "path": "/spec/storageClassName", "value": ""},
                        {"op": "add", "path": "/spec/volumeName", "value": namespace.name},
                    ]
                ),
            }
        )
    (folder / "overlay").mkdir(exist_ok=True)
    (folder / "overlay/kustomization.yaml").write_text(yaml.safe_dump(document))
    yield folder / "overlay"
    namespace.kubectl(
        "delete", "clusterrole,clusterrolebinding", f"{namespace.name}-nodes-reader", "--ignore-not-found"
    )
    if shared:
        namespace.kubectl("delete", "persistentvolume", namespace.name, "--ignore-not-found", "--wait=false")
        _on_a_node(image, shared, f"rm -rf {namespace.name}")


@pytest.fixture(scope="session")
def installation(namespace: Namespace, overlay: Path) -> Installation:
    """A working installation."""
    namespace.kubectl("apply", "-k", str(overlay))
    workloads = ("statefulset/postgres", "deployment/prefect-server", "deployment/mlflow", "deployment/prefect-worker")
    for workload in workloads:
        namespace.kubectl("rollout", "status", workload, f"--timeout={START_SECONDS}s")
    return Installation(namespace, overlay)


@pytest.fixture(scope="session")
def trial_code(installation: Installation) -> None:
    """The trial and a manifest for it on the storage: the one that is shipped, with smaller pods and one group."""
    manifest = yaml.safe_load((installation.folder.parent / "base/raycluster.yaml").read_text())
    spec = manifest["spec"]
    spec["workerGroupSpecs"] = spec["workerGroupSpecs"][:1]
    spec["autoscalerOptions"]["idleTimeoutSeconds"] = 15
    for group in (spec["headGroupSpec"], spec["workerGroupSpecs"][0]):
        group["template"]["spec"]["containers"][0]["resources"] = {
            "requests": {"cpu": "100m", "memory": "500Mi"},
            "limits": {"memory": "3Gi"},
        }
    spec["workerGroupSpecs"][0].update(maxReplicas=1, rayStartParams={"num-cpus": "1"})
    installation.on_storage(
        f"mkdir -p {STORAGE}/code && cat > {STORAGE}/code/raycluster.yaml", stdin=yaml.safe_dump(manifest)
    )
    program = (Path(__file__).parent / "trial.py").read_text()
    installation.on_storage(f"cat > {STORAGE}/code/trial.py", stdin=program)


@pytest.fixture(scope="session")
def trial_run(installation: Installation, trial_code: None) -> Callable[..., tuple[FlowRun, str]]:
    """Starts ``trial.py`` as a deployment; gives the run and its folder."""
    flow = installation.ask("POST", "/flows/", {"name": "trial"})
    folder = f"{STORAGE}/code"
    installation.ask(
        "POST",
        "/deployments/",
        {
            "name": "trial",
            "flow_id": flow["id"],
            "entrypoint": "trial.py:trial",
            "work_pool_name": "kubernetes",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
        },
    )

    def begin(seconds: float, **settings: str) -> tuple[FlowRun, str]:
        own = f"{STORAGE}/trials/{uuid.uuid4().hex[:6]}"
        installation.on_storage(f"mkdir -p {own}")
        env = {"RAYWORKS_RAY_ADDRESS": f"{folder}/raycluster.yaml"} | settings
        return installation.start("trial/trial", {"folder": own, "seconds": seconds}, env), own

    return begin


def node_names() -> list[str]:
    """Of the cluster, in their order."""
    return sorted(node["metadata"]["name"] for node in Namespace("default").get("nodes")["items"])


@contextmanager
def lost_node(name: str) -> Iterator[None]:
    """A node without a network, as a failed machine is one, within the block."""
    subprocess.run([*shlex.split(os.environ[NODE_DOWN]), name], check=True)
    try:
        yield
    finally:
        subprocess.run([*shlex.split(os.environ[NODE_UP]), name], check=True)
        Namespace("default").kubectl("wait", f"node/{name}", "--for=condition=Ready", "--timeout=120s")


def away_from(installation: Installation, node: str) -> str:
    """A manifest whose pods run on any other node."""
    manifest = yaml.safe_load(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))
    elsewhere = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}]}
    spec = manifest["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        affinity = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [elsewhere]}}
        }
        group["template"]["spec"]["affinity"] = affinity
    path = f"{STORAGE}/code/away-from-{node}.yaml"
    installation.on_storage(f"cat > {path}", stdin=yaml.safe_dump(manifest))
    return path


@contextmanager
def closed_to_new_pods(nodes: list[str]) -> Iterator[None]:
    """Nodes that are cordoned within the block."""
    Namespace("default").kubectl("cordon", *nodes)
    try:
        yield
    finally:
        Namespace("default").kubectl("uncordon", *nodes)


def _image(name: str, reference: str) -> dict[str, str]:
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:  # no tag, but a registry's port
        return {"name": name, "newName": reference}
    return {"name": name, "newName": repository, "newTag": tag}


def _replace(path: str, value: str) -> str:
    return yaml.safe_dump([{"op": "replace", "path": path, "value": value}])


def _volume(name: str, path: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "100Gi"},
            "hostPath": {"path": path, "type": "Directory"},
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }


def _on_a_node(image: str, folder: str, script: str) -> None:
    """Run a script in a folder of a node, as root: the namespaces under test allow no such pod."""
    default = Namespace("default")
    name = f"rw-test-{uuid.uuid4().hex[:8]}"
    container = {
        "name": "script",
        "image": image,
        "command": ["sh", "-c", script],
        "workingDir": "/shared",
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }
    volume = {"name": "shared", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container], "volumes": [volume]},
    }
    default.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    default.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", f"--timeout={START_SECONDS}s")
    default.kubectl("delete", "pod", name, "--wait=false")
