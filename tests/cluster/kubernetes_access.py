"""The Kubernetes cluster under test: ``kubectl``, and reads through one API proxy per test process.

A poll through the proxy costs a millisecond. A poll by ``kubectl`` costs a process of a tenth of a second, and
``kubectl port-forward`` loses its service when the pod restarts.
"""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

from rayworks.cluster.kubernetes.raycluster_manifest import is_on
from tests.waiting import eventually

START_SECONDS = 600
"""How long a pod may take to start, and what runs in it to end, on a machine with other work."""

REPLACEMENT_SECONDS = 120
"""How long a service may have no pod when its pod is replaced."""

API_OF_KIND = {
    "deployments": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "nodes": "api/v1",
    "pods": "api/v1",
    "rayclusters": "apis/ray.io/v1",
}


@dataclass(frozen=True)
class Cluster:
    """The Kubernetes cluster under test, and the project's image as its nodes name it."""

    image: str
    api: httpx.Client

    @classmethod
    @contextmanager
    def connect(cls, image: str) -> Iterator[Self]:
        """Reach the API server of the current kubeconfig through ``kubectl proxy`` within the block."""
        command = ["kubectl", "proxy", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:
            assert proxy.stdout
            try:
                address = re.search(r"127\.0\.0\.1:\d+", proxy.stdout.readline())
                assert address, "kubectl proxy did not start"
                with httpx.Client(base_url=f"http://{address.group()}", timeout=60) as api:
                    yield cls(image, api)
            finally:
                proxy.terminate()

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Return the output of a command. An assertion fails with its error when it fails, unless ``check`` is off."""
        command = ["kubectl", *arguments]
        completed = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert not check or completed.returncode == 0, f"{' '.join(command)}: {completed.stderr}{completed.stdout}"
        return completed.stdout

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes in the order of their names."""
        nodes = self.api.get("/api/v1/nodes").raise_for_status().json()["items"]
        return sorted(nodes, key=lambda node: node["metadata"]["name"])

    def node_names(self) -> list[str]:
        """Return the names of the nodes in their order."""
        return [node["metadata"]["name"] for node in self.nodes()]

    def pull_image(self) -> None:
        """Pull the image on every node that does not have it, so that no test waits for it."""
        session = uuid.uuid4().hex[:5]
        container = {"name": "true", "image": self.image, "command": ["true"]}
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"pull-{session}-{node['metadata']['name']}",
                    "namespace": "default",
                    "labels": {"rayworks-test": f"pull-{session}"},
                },
                "spec": {"nodeName": node["metadata"]["name"], "restartPolicy": "Never", "containers": [container]},
            }
            for node in self.nodes()
            if not is_on(self.image, node)
        ]
        if pods:
            self._run_to_completion(f"rayworks-test=pull-{session}", pods)

    def _run_to_completion(self, selector: str, pods: list[dict[str, Any]]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
        succeeded = "--for=jsonpath={.status.phase}=Succeeded"
        selected = ("--namespace=default", f"--selector={selector}")
        self.kubectl("wait", "pod", *selected, succeeded, f"--timeout={START_SECONDS}s")
        self.kubectl("delete", "pod", *selected, "--wait=false")

    def run_on_a_node(self, folder: str, script: str) -> None:
        """Run a shell script in a folder of a node, as root: the namespaces under test allow no such pod."""
        name = f"rw-test-{uuid.uuid4().hex[:8]}"
        container = {
            "name": "script",
            "image": self.image,
            "command": ["sh", "-c", script],
            "workingDir": "/shared",
            "securityContext": {"runAsUser": 0},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }
        volume = {"name": "shared", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"rayworks-test": name}},
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": [volume]},
        }
        self._run_to_completion(f"rayworks-test={name}", [pod])


@dataclass(frozen=True)
class Namespace:
    """A namespace of the cluster."""

    cluster: Cluster
    name: str

    @classmethod
    def create(cls, cluster: Cluster) -> Self:
        """Create one with a name of its own."""
        name = f"rw-test-{uuid.uuid4().hex[:5]}"
        cluster.kubectl("create", "namespace", name)
        return cls(cluster, name)

    def delete(self) -> None:
        """Delete it with all that is in it, without waiting."""
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Return the output of a command in this namespace, as :meth:`Cluster.kubectl` does."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, stdin=stdin, check=check)

    def read(self, kind: str, name: str) -> Any:
        """Return one object; ``kind`` in the plural."""
        path = f"/{API_OF_KIND[kind]}/namespaces/{self.name}/{kind}/{name}"
        return self.cluster.api.get(path).raise_for_status().json()

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind that a label selector chooses."""
        path = f"/{API_OF_KIND[kind]}/namespaces/{self.name}/{kind}"
        return self.cluster.api.get(path, params={"labelSelector": selector}).raise_for_status().json()["items"]

    def request(self, service: str, port: int, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request to a service through the API server. While its pod is replaced, try again."""
        url = f"/api/v1/namespaces/{self.name}/services/{service}:{port}/proxy{path}"
        responses: list[httpx.Response] = []

        def response() -> httpx.Response | None:
            responses.append(self.cluster.api.request(method, url, json=body))
            return None if responses[-1].is_server_error else responses[-1].raise_for_status()

        return eventually(response, REPLACEMENT_SECONDS, lambda: f"{service}: {responses[-1].text}", every=1)

    @contextmanager
    def port_forward(self, service: str, port: int) -> Iterator[str]:
        """Forward a port of this machine to a service within the block; yield its address."""
        command = ["kubectl", "--namespace", self.name, "port-forward", f"service/{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout
            try:
                address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
                assert address, f"no port-forward to {service}"
                yield address.group()
            finally:
                process.terminate()
