"""Prefect is imported before the first task run needs it, on the nodes where task runs can be."""

import subprocess
import sys

PROGRAM = """
import sys

import ray
from ray.cluster_utils import Cluster

from rayworks import RayworksError, capacity, ray_running
from rayworks.cluster import places, preflight

places.prepare()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
for cpus in (0, 1):
    cluster.add_node(num_cpus=cpus, object_store_memory=100_000_000)

def has_prefect():
    return "prefect.task_engine" in sys.modules

with ray_running(cluster.address) as session:
    try:
        session.start_preflight().check(shared_storage=False)  # waits for what was started on each node
    except RayworksError as error:
        assert "no PREFECT_API_URL" in str(error), error
    own = ray.get_runtime_context().get_node_id()
    print("OWN", own in session._warm_up)  # where Ray may have ended the worker: the node has no CPUs
    for node_id, node in capacity.alive_nodes().items():
        if node_id != own:
            print("CPUS", node["Resources"].get("CPU", 0), ray.get(preflight.start_on(node_id, has_prefect)))
cluster.shutdown()
"""


def test_a_worker_imports_prefect_on_the_own_node_and_each_node_with_cpus_and_on_no_other():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=250, check=False)
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith(("CPUS", "OWN")))
    assert lines == ["CPUS 0 False", "CPUS 1.0 True", "OWN True"], done.stdout + done.stderr
