"""What another Ray of this machine leaves behind does not mislead an embedded one."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
from rayworks.cluster import connection

connection.prepare()
import ray

embedded = connection.EmbeddedRay()
embedded.acquire({}, {"num_cpus": 1, "object_store_memory": 100_000_000})


@ray.remote(num_cpus=0)
class Controller:
    def seen_as(self) -> str:
        from ray.util.state import get_actor

        return get_actor(ray.get_runtime_context().get_actor_id(), timeout=5).state


print("SEEN AS", ray.get(Controller.remote().seen_as.remote()))
embedded.release()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where Ray keeps its sessions; short, for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rayworks-"))
    yield folder
    shutil.rmtree(folder)


def test_workers_ask_their_own_ray_although_another_was_started_on_the_machine(folder: Path):
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")  # as `ray start` writes it, and leaves it when killed
    environment = os.environ | {"RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "SEEN AS ALIVE" in ran.stdout, ran.stdout + ran.stderr[-3000:]
