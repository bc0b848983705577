"""A Ray head that a test starts by a command, as people and pods do."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rayworks.cluster._private import NODE_STARTED
from rayworks.free_port import free_port
from tests.waiting import eventually

RAY = (str(Path(sys.executable).with_name("ray")),)
"""Ray's own command."""
OPTIONS = ("start", "--head", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000")


class RayHead(NamedTuple):
    port: int
    processes: dict[int, str]
    """The commands of the processes that it has started."""


@contextlib.contextmanager
def ray_head(
    *options: str, env: Mapping[str, str], command: tuple[str, ...] = RAY, seconds: float = 60
) -> Iterator[RayHead]:
    """A head that has started. It ends by its process group: ``ray stop`` would end every Ray of the machine."""
    # A short path, for Ray's sockets. Not in /tmp/ray, where every ray.init would find this head.
    folder, port = Path(tempfile.mkdtemp(prefix="rayworks-")), free_port()
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *OPTIONS, f"--port={port}", f"--temp-dir={folder / 'ray'}", *options],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(
            lambda: process.poll() is not None or NODE_STARTED in log.read_text(),
            seconds,
            lambda: f"the head never started: {log.read_text()}",
        )
        assert process.poll() is None, log.read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield RayHead(port, {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children})
    finally:
        process.send_signal(signal.SIGTERM)  # --block ends what it started
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
