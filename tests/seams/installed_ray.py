"""What the installed Ray says in its source and its binaries, and what a fresh Python does with it."""

import importlib.util
import mmap
import subprocess
import sys
from pathlib import Path

RAY = Path(next(iter(importlib.util.find_spec("ray").submodule_search_locations)))


def source(path: str) -> str:
    return (RAY / path).read_text()


def in_binary(path: str, text: str) -> bool:
    with (RAY / path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text.encode()) >= 0


def in_a_fresh_python(code: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
