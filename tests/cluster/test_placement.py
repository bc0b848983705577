"""Where the pods of ``raycluster.yaml`` run: its tolerations, node selectors and GPU group at work."""

import json
import re

import pytest
import yaml

from tests.cluster.installation import Installation, small_pod
from tests.cluster.nodes import reserved
from tests.cluster.runs import RayOfRun

# Two of the nodes take no other pods meanwhile.
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900), pytest.mark.last, pytest.mark.minutes(2)]

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
    futures = [on_a_cpu.submit(), on_a_gpu.submit()]
    print("worked on", " and ".join(future.result() for future in futures), flush=True)


both()
"""


def test_tasks_run_on_the_nodes_that_are_reserved_for_them(installation: Installation):
    cluster, name = installation.namespace.cluster, "placed"
    dedicated, with_gpu = cluster.node_names()[-2:]
    manifest = yaml.safe_load((installation.base / "base/raycluster.yaml").read_text())
    manifest["metadata"]["name"] = name
    head, groups = manifest["spec"]["headGroupSpec"], manifest["spec"]["workerGroupSpecs"]
    for group in (head, *groups):  # this machine has two cores; all else is as it is shipped
        resources, small = group["template"]["spec"]["containers"][0]["resources"], small_pod()
        gpus = {name: count for name, count in resources["limits"].items() if name == "nvidia.com/gpu"}
        resources["requests"], resources["limits"] = small["requests"] | gpus, small["limits"] | gpus
    cpu, gpu = groups
    cpu["rayStartParams"] = {"num-cpus": "1"}
    gpu["rayStartParams"] = {"num-cpus": "0"}
    # Beside its toleration, a selector as an installation would add it to keep the group on its nodes.
    cpu["template"]["spec"]["nodeSelector"]["rayworks.io/dedicated"] = "ray"
    installation.on_storage(f"cat > {installation.code}/placed.yaml", stdin=yaml.safe_dump(manifest))
    installation.on_storage(f"cat > {installation.code}/placed.py", stdin=PROGRAM)
    dedicated_taint, gpu_taint = "rayworks.io/dedicated=ray:NoSchedule", "nvidia.com/gpu=present:NoSchedule"
    with (
        reserved(cluster, dedicated, label="rayworks.io/dedicated=ray", taint=dedicated_taint),
        reserved(cluster, with_gpu, label="nvidia.com/gpu.present=true", taint=gpu_taint, gpus=1),
    ):
        command = f"RAYWORKS_RAY_ADDRESS={installation.code}/placed.yaml python {installation.code}/placed.py 2>&1"
        log = installation.run_in_a_pod("sh", "-c", command)
        RayOfRun(installation.namespace, cluster_name=name).assert_deleted()
    assert "worked on a CPU and GPU 0" in log
    folder = re.search(r"Its logs and events are in (\S+)", log)
    assert folder, log
    pods = json.loads(installation.on_storage(f"cat {folder[1]}/pods.json"))
    nodes = {pod["metadata"]["labels"]["ray.io/group"]: pod["spec"]["nodeName"] for pod in pods}
    assert (nodes["cpu"], nodes["gpu"]) == (dedicated, with_gpu)
    assert nodes["headgroup"] not in (dedicated, with_gpu)
