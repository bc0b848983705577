"""A node that an autoscaler takes away while a run begins is no reason to fail: nothing ran on it."""

import subprocess
import sys

PROGRAM = """
import ray
from ray.cluster_utils import Cluster
from rayworks.cluster import places
from rayworks.cluster.preflight import Preflight

places.prepare()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
going = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=0)
class Gate:
    def __init__(self):
        import asyncio
        self.opened = asyncio.Event()
    async def open(self):
        self.opened.set()
    async def passed(self):
        await self.opened.wait()

head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
gate = Gate.options(label_selector={"ray.io/node-id": head}).remote()
asked = Preflight(None, None, gate.passed.remote())  # its questions wait for the gate
print("ASKED", len(asked.nodes))
cluster.remove_node(going)
ray.get(gate.open.remote())
try:
    asked.check()
except Exception as error:
    print("SAID", error)
ray.shutdown()
cluster.shutdown()
"""


def test_a_node_that_leaves_before_it_answered_is_not_held_against_the_run():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert "ASKED 2" in done.stdout, done.stdout
    said = done.stdout.partition("SAID")[2]
    assert said.count(" on ") == said.count("no PREFECT_API_URL"), said  # of the node that stayed: this run has no API
    assert "could not start" not in said
