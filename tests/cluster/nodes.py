"""Nodes that fail, take no new pods, or are reserved, each within a block."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.kubernetes_access import Cluster

NODE_DOWN, NODE_UP = "RAYWORKS_TEST_NODE_DOWN", "RAYWORKS_TEST_NODE_UP"
needs_node_loss = pytest.mark.skipif(
    NODE_DOWN not in os.environ, reason=f"NODE LOSS IS NOT TESTED: set {NODE_DOWN} and {NODE_UP}"
)


@contextmanager
def lost_node(cluster: Cluster, node: str) -> Iterator[None]:
    """Cut a node's network within the block, as a failed machine's is."""
    subprocess.run([*shlex.split(os.environ[NODE_DOWN]), node], check=True)
    try:
        yield
    finally:
        subprocess.run([*shlex.split(os.environ[NODE_UP]), node], check=True)
        cluster.kubectl("wait", f"node/{node}", "--for=condition=Ready", "--timeout=120s")


@contextmanager
def cordoned(cluster: Cluster, nodes: list[str]) -> Iterator[None]:
    """Close nodes to new pods within the block."""
    cluster.kubectl("cordon", *nodes)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *nodes)


@contextmanager
def reserved(cluster: Cluster, node: str, *, label: str, taint: str, gpus: int = 0) -> Iterator[None]:
    """Label a node, and keep pods away that do not tolerate ``taint``, within the block."""

    def offer(count: str | None) -> None:
        patch = {"status": {field: {"nvidia.com/gpu": count} for field in ("capacity", "allocatable")}}
        cluster.kubectl("patch", "node", node, "--subresource=status", "--patch", json.dumps(patch))

    cluster.kubectl("label", "node", node, label)
    cluster.kubectl("taint", "node", node, taint)
    try:
        if gpus:
            offer(str(gpus))
        yield
    finally:
        if gpus:
            offer(None)
        cluster.kubectl("taint", "node", node, f"{taint}-")
        cluster.kubectl("label", "node", node, f"{label.partition('=')[0]}-")
