"""CPU time and memory of a process and all its descendants, sampled while they run. Linux only."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_SECONDS = 0.4  # a sample takes some milliseconds of a core for each process
RESERVE = 2 * 2**30
"""Bytes of the machine's memory that must stay free."""


class Watch:
    """The largest sampled sum of PSS, and the CPU seconds of all sampled processes.

    If they leave the machine less memory than ``RESERVE``, all of them are killed.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak, self.ended = 0, False
        self._cpu: dict[int, float] = {}

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def until(self, over: Callable[[], bool]) -> None:
        """Sample until ``over`` is true."""
        while not over():
            members = descendants(self.pid)
            self.peak = max(self.peak, sum(proportional(pid) for pid in members))
            self._cpu |= {pid: seconds for pid in members if (seconds := cpu_seconds(pid))}
            if available() < RESERVE:
                self.ended = True
                for pid in members:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(SAMPLE_SECONDS)


def descendants(pid: int) -> list[int]:
    """``pid`` and all processes below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    members = [pid]
    for member in members:
        members += children.get(member, [])
    return members


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 if it has exited."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name of the program; the first is the state."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def proportional(pid: int) -> int:
    """The PSS of a process in bytes; 0 if it has exited."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def available() -> int:
    """Memory that the machine has available, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
