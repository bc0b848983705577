"""A flow that a program outside of Kubernetes runs on a RayCluster: its code and files travel with it."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.certificates import Authority
from tests.cluster import ray_security
from tests.cluster.installation import Installation
from tests.cluster.runs import RayOfRun

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.timeout(2000),
    pytest.mark.minutes(3),
    # A port-forward ends when its pod does, which another test of this group restarts.
    pytest.mark.xdist_group("prefect-server"),
]

PROGRAM = """
from prefect import flow, task

from discounts import discounted
from rayworks import RayTaskRunner


@task
def total(file: str) -> float:
    with open(file) as prices:
        return sum(discounted(float(line)) for line in prices)


@flow(task_runner=RayTaskRunner())
def till(file: str = "prices.txt") -> None:
    print(f"the sum is {total.submit(file).result():g}")


if __name__ == "__main__":
    import sys

    till(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def project(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own project: a flow, a module, a data file, and a file that is not for others."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "till.py").write_text(PROGRAM)
    (folder / "discounts.py").write_text("def discounted(price): return price / 2\n")
    (folder / "prices.txt").write_text("10\n20\n")
    (folder / "secret.txt").write_text("30\n")
    (folder / ".gitignore").write_text("secret.txt\n")
    (folder / "raycluster.yaml").write_text(installation.write_manifest("driver-outside"))
    return folder


def run(
    installation: Installation, project: Path, *arguments: str, manifest: str = "raycluster.yaml", **env: str
) -> "subprocess.CompletedProcess[str]":
    """``python till.py``, by a user who has a kubeconfig and the address of the Prefect server."""
    with installation.namespace.port_forward("prefect-server", 4200) as address:
        settings = {
            "PREFECT_API_URL": f"http://{address}/api",
            "RAYWORKS_RAY_ADDRESS": manifest,
            "RAYWORKS_NAMESPACE": installation.namespace.name,
            "RAYWORKS_IMAGE": installation.namespace.cluster.image,
            "RAYWORKS_STORAGE_URI": str(project.parent / "storage"),
            "RAYWORKS_RAY_IDLE_SECONDS": "60",
            **env,
        }
        command = [sys.executable, "till.py", *arguments]
        return subprocess.run(
            command, cwd=project, env=os.environ | settings, capture_output=True, text=True, timeout=900, check=False
        )


def test_a_changed_module_and_file_arrive_without_an_image_build(installation: Installation, project: Path):
    first = run(installation, project)
    assert "the sum is 15" in first.stdout, first.stderr
    (project / "discounts.py").write_text("def discounted(price): return price / 10\n")
    (project / "prices.txt").write_text("10\n20\n70\n")
    second = run(installation, project)
    assert "the sum is 10" in second.stdout, second.stderr
    assert "Using the shared RayCluster" in second.stderr


def test_a_file_that_did_not_travel_is_named(installation: Installation, project: Path):
    completed = run(installation, project, "secret.txt")
    assert completed.returncode != 0
    assert "No such file or directory: 'secret.txt'" in completed.stderr
    assert "without what .gitignore names" in completed.stderr


def test_a_ray_cluster_that_wants_a_token_gets_the_one_of_its_secret(installation: Installation, project: Path):
    """From a driver outside, and from one in a pod. KubeRay makes the Secret, and names the head's service as told."""
    manifest = yaml.safe_load((project / "raycluster.yaml").read_text())
    manifest["metadata"]["name"] = "with-token"
    manifest["spec"] |= {"rayVersion": version("ray"), "authOptions": {"mode": "token"}}
    manifest["spec"]["headGroupSpec"]["headService"] = {"metadata": {"name": "my-head"}}
    (project / "with_token.yaml").write_text(yaml.safe_dump(manifest))
    completed = run(installation, project, manifest="with_token.yaml")
    assert "the sum is" in completed.stdout, completed.stderr

    namespace = installation.namespace  # a driver in a pod may read the Secret once docs/kubernetes.md was followed
    secret = ("--verb=get", "--resource=secrets", "--resource-name=with-token")
    namespace.kubectl("create", "role", "read-token", *secret)
    account = f"--serviceaccount={namespace.name}:rayworks-flow"
    namespace.kubectl("create", "rolebinding", "read-token", "--role=read-token", account)
    file, folder = f"{installation.code}/with_token.yaml", f"{installation.storage}/runs/with-token"
    installation.on_storage(f"mkdir -p {folder} && cat > {file}", stdin=yaml.safe_dump(manifest))
    settings = f"RAYWORKS_RAY_ADDRESS={file} RAYWORKS_RAY_IDLE_SECONDS=60"
    command = f"{settings} python {installation.code}/two_stages.py {folder} 0 2>&1"
    output = installation.run_in_a_pod("sh", "-c", command)
    assert "Using the shared RayCluster" in output
    assert installation.exists(f"{folder}/second.ended"), output


def test_a_ray_cluster_with_tls_that_keeps_its_state_in_redis_runs_and_leaves_nothing(
    installation: Installation, project: Path
):
    """A driver without certificates is refused before a cluster is created."""
    namespace, image = installation.namespace, installation.namespace.cluster.image
    authority = Authority(project.parent / "authority")
    files = [f"--from-file={authority.folder / name}" for name in ("ca.crt", "ca.key")]
    namespace.kubectl("create", "secret", "generic", ray_security.AUTHORITY, *files)
    redis = {"apiVersion": "v1", "kind": "List", "items": ray_security.redis_objects()}
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(redis))
    plain = yaml.safe_load((project / "raycluster.yaml").read_text()) | {"metadata": {"name": "secured"}}
    (project / "secured.yaml").write_text(yaml.safe_dump(ray_security.secured(plain, image, "redis:6379")))
    try:
        refused = run(installation, project, manifest="secured.yaml")
        assert "Ray wants TLS: secured.yaml (RAY_USE_TLS is not set here)" in refused.stderr
        assert "Created RayCluster" not in refused.stderr
        ray_security.await_redis(namespace)
        certificate = authority.environment("driver")
        completed = run(installation, project, manifest="secured.yaml", RAYWORKS_RAY_IDLE_SECONDS="0", **certificate)
        assert "the sum is" in completed.stdout, completed.stderr
        RayOfRun(namespace, cluster_name="secured").assert_deleted()
        assert ray_security.redis_keys(namespace) == []
    finally:
        namespace.kubectl("delete", "pod/redis", "service/redis", f"secret/{ray_security.AUTHORITY}", "--wait=false")
