"""A fan-out that is stopped ends at once, and the next run continues where it was."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults.fan_out_that_waits import CHUNK, ITEMS
from tests.waiting import eventually

PROGRAM = Path(__file__).parent / "fan_out_that_waits.py"
RUNNING = CHUNK * (os.cpu_count() or 1)
"""Items that the CPUs of this machine process at a time."""


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAYWORKS_STORAGE_URI": str(folder / "storage")}
    command = [sys.executable, str(PROGRAM), str(folder / "calls")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def parts(folder: Path) -> int:
    """How many chunks have their results on the storage."""
    return len(list(folder.glob("storage/fan-out/*/results/[0-9]*")))


def test_what_is_done_stays_after_ctrl_c_and_after_a_kill(tmp_path: Path):
    (tmp_path / "calls").mkdir()
    for number, stopped_by in ((1, signal.SIGINT), (2, signal.SIGKILL)):
        program, before = start(tmp_path), parts(tmp_path)
        eventually(lambda before=before: parts(tmp_path) >= before + 5, 60, "it processes nothing")
        program.send_signal(stopped_by)
        stopped = time.monotonic()
        program.communicate(timeout=30)
        assert time.monotonic() - stopped < 5
        assert program.returncode != 0
        calls = len(list((tmp_path / "calls").iterdir()))
        assert calls <= CHUNK * parts(tmp_path) + number * RUNNING, "items were called that no chunk was about to store"
    done = CHUNK * parts(tmp_path)
    output, errors = start(tmp_path).communicate(timeout=120)
    assert (found := re.match(r"found (\d+) of 400", output)), errors
    assert int(found[1]) >= done
    calls_of_item = Counter(int(path.name.partition("-")[0]) for path in (tmp_path / "calls").iterdir())
    assert set(calls_of_item) == set(range(ITEMS))
    assert sum(calls_of_item.values()) <= ITEMS + 2 * RUNNING, "more is repeated than what was running"
