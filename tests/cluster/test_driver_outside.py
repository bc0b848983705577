"""A flow that a program outside of Kubernetes runs on a RayCluster: its code and files travel with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import STORAGE, Installation

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

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
def project(installation: Installation, trial_code: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own project: a flow, a module, a file, and one file that is not for others."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "till.py").write_text(PROGRAM)
    (folder / "discounts.py").write_text("def discounted(price): return price / 2\n")
    (folder / "prices.txt").write_text("10\n20\n")
    (folder / "secret.txt").write_text("30\n")
    (folder / ".gitignore").write_text("secret.txt\n")
    (folder / "raycluster.yaml").write_text(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))
    return folder


def run(installation: Installation, image: str, project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """``python till.py``, as a person types it who has a kubeconfig and the address of the Prefect server."""
    with installation.namespace.port("prefect-server", 4200) as address:
        own = {
            "PREFECT_API_URL": f"http://{address}/api",
            "RAYWORKS_RAY_ADDRESS": "raycluster.yaml",
            "RAYWORKS_NAMESPACE": installation.namespace.name,
            "RAYWORKS_IMAGE": image,
            "RAYWORKS_STORAGE_URI": str(project.parent / "storage"),
            "RAYWORKS_RAY_IDLE_SECONDS": "60",
        }
        command = [sys.executable, "till.py", *arguments]
        return subprocess.run(
            command, cwd=project, env=os.environ | own, capture_output=True, text=True, timeout=600, check=False
        )


def test_a_changed_module_and_file_arrive_without_an_image_build(installation: Installation, image: str, project: Path):
    first = run(installation, image, project)
    assert "the sum is 15" in first.stdout, first.stderr
    (project / "discounts.py").write_text("def discounted(price): return price / 10\n")
    (project / "prices.txt").write_text("10\n20\n70\n")
    second = run(installation, image, project)
    assert "the sum is 10" in second.stdout, second.stderr
    assert "Using the shared RayCluster" in second.stderr


def test_a_file_that_did_not_travel_is_named(installation: Installation, image: str, project: Path):
    ran = run(installation, image, project, "secret.txt")
    assert ran.returncode != 0
    assert "No such file or directory: 'secret.txt'" in ran.stderr
    assert "without what .gitignore names" in ran.stderr
