"""A task that takes all memory ends with its name, and can run again with more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "flow_that_needs_memory.py"
ALLOWED_BYTES = 3_000_000_000
"""What the program may take, beyond what the machine uses already, before Ray ends its largest process."""


@pytest.fixture
def threshold() -> str:
    """The share of the machine's memory in use at which Ray ends processes."""
    said = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in said}
    return str(1 - (memory["MemAvailable"] - ALLOWED_BYTES) / memory["MemTotal"])


def run(home: Path, threshold: str, what: str) -> subprocess.CompletedProcess[str]:
    own = {
        "PREFECT_HOME": str(home),
        "RAYWORKS_STORAGE_URI": str(home / "storage"),
        "RAY_memory_usage_threshold": threshold,
        "RAY_task_oom_retry_delay_base_ms": "100",  # a second by default, twice as long each time
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, str(PROGRAM), what]
    return subprocess.run(command, env=inherited | own, capture_output=True, text=True, timeout=280, check=False)


def test_the_failure_names_the_task_that_ran_out_of_memory_and_so_does_its_state(prefect_home: Path, threshold: str):
    ran = run(prefect_home, threshold, "greedy")
    assert "The task greedy ran out of memory" in ran.stderr, ran.stderr[-3000:]
    assert "@resources(memory=" in ran.stderr
    assert "the state of greedy is CRASHED: The task greedy ran out of memory" in ran.stdout, ran.stdout
    assert ran.returncode == 1


def test_a_task_with_max_memory_runs_again_with_twice_the_memory(prefect_home: Path, threshold: str):
    ran = run(prefect_home, threshold, "growing")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "it had 400 MB in the end" in ran.stdout
