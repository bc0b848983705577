"""A task that runs out of memory fails with its name, and can run again with more memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.xdist_group("memory"),  # Ray looks at the memory of the whole machine
    pytest.mark.timeout(900),  # so does the machine: new memory is slow where others take it as well
]

PROGRAM = Path(__file__).parent / "flow_that_needs_memory.py"
STAGES = Path(__file__).parent / "stages_that_need_memory.py"
ALLOWED_BYTES = 4_500_000_000
"""How much the program, and others that start meanwhile, may allocate before Ray kills a process of the program."""


def threshold() -> str:
    """The fraction of the machine's memory in use at which Ray kills processes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in lines}
    return str(1 - (memory["MemAvailable"] - ALLOWED_BYTES) / memory["MemTotal"])


def run(home: Path, threshold: str, *arguments: str, program: Path = PROGRAM) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
        "PREFECT_HOME": str(home),
        "RAYWORKS_STORAGE_URI": str(home / "storage"),
        "RAY_memory_usage_threshold": threshold,
        "RAY_task_oom_retry_delay_base_ms": "100",  # a second by default, twice as long each time
    }
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)


def test_the_error_and_the_state_name_the_task_that_ran_out_of_memory(prefect_home: Path):
    done = run(prefect_home, threshold(), "greedy")
    assert "The task greedy ran out of memory" in done.stderr, done.stderr[-3000:]
    assert "@resources(memory=" in done.stderr
    assert "the state of greedy is CRASHED: The task greedy ran out of memory" in done.stdout, done.stdout
    assert done.returncode == 1


def test_a_task_with_max_memory_is_run_again_with_twice_the_memory(prefect_home: Path):
    done = run(prefect_home, threshold(), "growing")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "its last run had 400 MB" in done.stdout


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each stage whose nested work needs too much memory."""
    folder = tmp_path_factory.mktemp("stages")
    done = run(folder / "prefect", threshold(), str(folder), program=STAGES)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if re.match("(train|tune|process|grow|fan_out): ", line)]
    return {"output": done.stdout + done.stderr, **dict(line.split(": ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("train", "Training ran out of memory: a worker of stages_that_need_memory:greedy on node "),
        ("tune", "Tuning ran out of memory: a trial of stages_that_need_memory:greedy on node "),
        ("process", "A worker ran out of memory: node "),
    ],
    ids=["train", "tune", "process"],
)
def test_a_stage_whose_nested_work_ran_out_of_memory_says_so(outcomes: dict[str, str], stage: str, words: str):
    assert outcomes[stage].startswith(words)
    assert "GB limit" in outcomes[stage]


def test_training_that_ran_out_of_memory_resumes_from_its_checkpoint_with_more(outcomes: dict[str, str]):
    assert outcomes["grow"].startswith("ModelRef(")
    assert "restarts=1" in outcomes["grow"]
    assert "Reporting training result" not in outcomes["output"], "a message of Ray that does not concern the user"


def test_an_item_that_needs_all_memory_costs_no_other_item(outcomes: dict[str, str]):
    outcome = outcomes["fan_out"]
    assert "'results': [0, 1, 2, 3, 4, 5, 6, 8, 9]" in outcome
    assert "Failure(item=7, value='7', kind='OutOfMemory', error='its worker process ran out of memory: " in outcome
