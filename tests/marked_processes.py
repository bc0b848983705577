"""The processes that a program has started and that have not ended, whatever session they are in."""

from pathlib import Path

MARK = "RAYWORKS_TEST_MARK"
"""A variable of the environment, which all descendants inherit."""


def processes_with(mark: str) -> list[str]:
    """Process IDs and command lines of the live processes that inherited the mark."""
    return [f"{pid} {command[:120]}" for pid, command in processes_with_variable(f"{MARK}={mark}").items()]


def processes_with_variable(assignment: str) -> dict[int, str]:
    """The command lines by process ID of the live processes that have a variable of the environment, as NAME=VALUE."""
    found: dict[int, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            has_it = assignment.encode() in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if has_it and command:
            found[int(process.name)] = command
    return found
