"""Where the pods of ``raycluster.yaml`` go: what its tolerations, node selectors and GPU group are for, at work."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.cluster.conftest import STORAGE, Installation, Namespace, node_names

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

PROGRAM = """
from prefect import flow, task

from rayworks import RayTaskRunner, resources


@task
def on_a_cpu():
    return "a CPU"


@task
@resources(num_cpus=0, num_gpus=1)
def on_a_gpu():
    import ray

    return f"GPU {ray.get_gpu_ids()[0]}"


@flow(task_runner=RayTaskRunner())
def both():
    ran = [on_a_cpu.submit(), on_a_gpu.submit()]
    print("worked on", " and ".join(one.result() for one in ran), flush=True)


both()
"""


@contextmanager
def made_special(node: str, *, label: str, taint: str, gpus: int = 0) -> Iterator[None]:
    """A node with a label, and a taint that keeps all pods away that do not tolerate it, within the block."""
    kubectl = Namespace("default").kubectl

    def offer(gpus: int | None) -> None:
        given = None if gpus is None else str(gpus)
        patch = {"status": {kind: {"nvidia.com/gpu": given} for kind in ("capacity", "allocatable")}}
        kubectl("patch", "node", node, "--subresource=status", "--patch", json.dumps(patch))

    kubectl("label", "node", node, label)
    kubectl("taint", "node", node, taint)
    try:
        if gpus:
            offer(gpus)
        yield
    finally:
        if gpus:
            offer(None)
        kubectl("taint", "node", node, f"{taint}-")
        kubectl("label", "node", node, f"{label.partition('=')[0]}-")


def test_tasks_run_on_the_nodes_that_are_kept_for_them(installation: Installation, trial_code: None):
    dedicated, with_gpu = node_names()[-2:]
    shipped = yaml.safe_load((installation.folder.parent / "base/raycluster.yaml").read_text())
    small = yaml.safe_load(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))
    head, groups = shipped["spec"]["headGroupSpec"], shipped["spec"]["workerGroupSpecs"]
    sized = small["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
    for group in (head, *groups):  # this machine has two cores; all else is as it is shipped
        resources = group["template"]["spec"]["containers"][0]["resources"]
        gpus = {name: count for name, count in resources["limits"].items() if name == "nvidia.com/gpu"}
        resources["requests"], resources["limits"] = sized["requests"] | gpus, sized["limits"] | gpus
    cpu, gpu = groups
    cpu["rayStartParams"] = {"num-cpus": "1"}
    gpu["rayStartParams"] = {"num-cpus": "0"}
    # Beside its toleration, a selector as an installation would add it to keep the group on its nodes.
    cpu["template"]["spec"]["nodeSelector"]["rayworks.io/dedicated"] = "ray"
    installation.on_storage(f"cat > {STORAGE}/code/placed.yaml", stdin=yaml.safe_dump(shipped))
    installation.on_storage(f"cat > {STORAGE}/code/placed.py", stdin=PROGRAM)
    with (
        made_special(dedicated, label="rayworks.io/dedicated=ray", taint="rayworks.io/dedicated=ray:NoSchedule"),
        made_special(with_gpu, label="nvidia.com/gpu.present=true", taint="nvidia.com/gpu=present:NoSchedule", gpus=1),
    ):
        log = installation.in_a_pod(
            "sh", "-c", f"RAYWORKS_RAY_ADDRESS={STORAGE}/code/placed.yaml python {STORAGE}/code/placed.py 2>&1"
        )
        installation.assert_no_ray()
    assert "worked on a CPU and GPU 0" in log
    folder = re.search(r"Its logs and events are in (\S+)", log)
    assert folder, log
    pods = json.loads(installation.on_storage(f"cat {folder[1]}/pods.json"))
    nodes = {pod["metadata"]["labels"]["ray.io/group"]: pod["spec"]["nodeName"] for pod in pods}
    assert (nodes["cpu"], nodes["gpu"]) == (dedicated, with_gpu)
    assert nodes["headgroup"] not in (dedicated, with_gpu)
