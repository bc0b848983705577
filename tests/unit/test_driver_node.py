"""A pod joins a Ray cluster also on a node that is too busy for Ray's own limit of 30 s."""

import sys
from pathlib import Path

import pytest

from rayworks.cluster import _private
from rayworks.cluster.kubernetes import driver_node
from rayworks.cluster.kubernetes.driver_node import DriverNode
from rayworks.errors import ClusterError


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Python: it fails with each line of the file ``failures``, and then starts."""
    program = tmp_path / "python"
    program.write_text(
        f"""#!{sys.executable}
import pathlib, sys, time
file = pathlib.Path(__file__).with_name("failures")
first, *rest = file.read_text().splitlines() or [""]
file.write_text("\\n".join(rest))
if first:
    sys.exit(first)
print("{_private.NODE_STARTED}. " + sys.stdin.readline(), flush=True)  # in one write
time.sleep(60)
"""
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return tmp_path / "failures"


def test_a_node_that_was_too_slow_is_started_again(ray: Path):
    ray.write_text(f"Exception: {_private.NODE_TOO_SLOW}. This could happen because …\n" * 2)
    node = DriverNode()
    node.join("10.0.0.1:6379")
    assert '"--address=10.0.0.1:6379"' in node.process.output()
    node.end()


def test_a_node_that_is_not_needed_ends_without_a_cluster():
    node = DriverNode()
    node.end()
    assert not node.process.is_running


def test_a_node_that_cannot_join_is_an_error_at_once(ray: Path):
    ray.write_text("Version mismatch\nnever read\n")
    with pytest.raises(ClusterError, match=r"could not join the Ray cluster: 10.0.0.1:6379 \(Version mismatch\)"):
        DriverNode().join("10.0.0.1:6379")
    assert ray.read_text() == "never read"


def test_a_node_that_stays_too_slow_is_an_error_in_the_end(ray: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_node, "JOIN_SECONDS", 3)
    ray.write_text(f"Exception: {_private.NODE_TOO_SLOW}\n" * 1000)
    with pytest.raises(ClusterError, match=_private.NODE_TOO_SLOW):
        DriverNode().join("10.0.0.1:6379")


def test_a_node_that_does_not_start_in_time_is_an_error_with_its_last_words(ray: Path, monkeypatch: pytest.MonkeyPatch):
    hangs = "#!{}\nimport time\nprint('Local node IP', flush=True); time.sleep(60)\n"
    ray.with_name("python").write_text(hangs.format(Path("/proc/self/exe").resolve()))
    monkeypatch.setattr(driver_node, "JOIN_SECONDS", 3)
    with pytest.raises(ClusterError, match=r"could not join the Ray cluster: 10.0.0.1:6379 \(Local node IP\)"):
        DriverNode().join("10.0.0.1:6379")
