"""A Ray that wants a token is joined where its token lies on the machine; else the error says so within seconds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayworks.free_port import free_port
from tests.ray_head import ray_head

JOIN = """
import sys

from rayworks.cluster import places
from rayworks.cluster.existing import ExistingRay
from rayworks.errors import ClusterError

places.prepare()
joined = ExistingRay(sys.argv[1])
try:
    joined.acquire({}, {})
except ClusterError as error:
    print("ERROR", error)
else:
    import ray

    print("JOINED", ray.get(ray.remote(lambda: 1).remote()))
    joined.release()
"""
JOIN_AS_NODE = """
import sys

from rayworks.cluster import _private, places
from rayworks.cluster.kubernetes.driver_node import DriverNode

places.prepare()
node = DriverNode()
_private.use_token(sys.argv[2])  # which a driver reads when the node's process runs already
node.join(sys.argv[1])
print("JOINED")
node.end()
"""


@dataclass(frozen=True)
class GuardedRay:
    """A Ray that wants a token: the addresses of its GCS and of its Ray Client server, and its folder."""

    gcs: str
    client: str
    folder: Path


def home(folder: Path, token: str | None) -> dict[str, str]:
    """An environment whose home folder has this token or none, and that says nothing else about tokens."""
    home = folder / (token or "none")
    (home / ".ray").mkdir(parents=True, exist_ok=True)
    if token:
        (home / ".ray" / "auth_token").write_text(token)
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")} | {"HOME": str(home)}


@pytest.fixture(scope="module")
def guarded_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRay]:
    folder, client = tmp_path_factory.mktemp("homes"), free_port()
    options = ("--num-cpus=1", "--include-dashboard=false", f"--ray-client-server-port={client}")
    with ray_head(*options, env=home(folder, "a" * 32)) as head:
        yield GuardedRay(f"127.0.0.1:{head.port}", f"ray://127.0.0.1:{client}", folder)


def join(address: str, environment: dict[str, str]) -> tuple[str, float]:
    """What a process prints that joins Ray, and how long it took, in seconds."""
    started = time.monotonic()
    command = [sys.executable, "-c", JOIN, address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr, time.monotonic() - started


@pytest.mark.parametrize("kind", ["gcs", "client"])
def test_the_token_of_this_machine_is_sent_to_a_ray_that_wants_one(guarded_ray: GuardedRay, kind: str):
    output, _ = join(getattr(guarded_ray, kind), home(guarded_ray.folder, "a" * 32))
    assert "JOINED 1" in output, output


@pytest.mark.parametrize(
    ("kind", "token", "variables", "detail"),
    [
        ("gcs", "b" * 32, {}, "it does not accept the token of this machine"),
        ("client", "b" * 32, {"RAY_AUTH_MODE": "token"}, "it does not accept the token of this machine"),
        ("client", None, {}, "this machine has none"),
        ("gcs", None, {"RAY_AUTH_MODE": "token"}, "this machine has none"),
        ("gcs", "a" * 32, {"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is disabled"),
    ],
    ids=["wrong", "wrong, with a mode", "missing", "missing, with a mode", "not to be sent"],
)
def test_a_token_that_is_wrong_or_missing_is_one_sentence_within_seconds(
    guarded_ray: GuardedRay, kind: str, token: str | None, variables: dict[str, str], detail: str
):
    address = getattr(guarded_ray, kind)
    output, seconds = join(address, home(guarded_ray.folder, token) | variables)
    (line,) = output.splitlines()
    assert line.startswith(f"ERROR Ray wants a token: {address} ({detail}). "), output
    assert seconds < 15


def test_a_node_of_a_driver_joins_with_the_token_that_the_driver_learns_last(guarded_ray: GuardedRay):
    command = [sys.executable, "-c", JOIN_AS_NODE, guarded_ray.gcs, "a" * 32]
    environment = home(guarded_ray.folder, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "JOINED\n", done.stderr
