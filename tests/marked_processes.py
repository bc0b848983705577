"""The processes that a program has started and that have not ended, whatever session they are in."""

from pathlib import Path

MARK = "RAYWORKS_TEST_MARK"
"""A variable of the environment, which all descendants inherit."""


def processes_with(mark: str) -> list[str]:
    """Process IDs and command lines of the live processes that inherited the mark."""
    lines: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            marked = f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked and command:
            lines.append(f"{process.name} {command[:120]}")
    return lines
