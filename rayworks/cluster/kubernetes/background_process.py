"""A program beside this process: started, known to be ready by what it prints, and ended with all that it started."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

END_SECONDS = 10


class BackgroundProcess:
    """``command`` in a session of its own, so that a Ctrl-C does not reach it before this process has used it to the end."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a file, not a pipe: nobody has to read it for the program to go on
        self._process = subprocess.Popen(
            command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def last_line(self) -> str:
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def wait_for(self, pattern: str, *, times: int = 1, seconds: float) -> list[re.Match[str]]:
        """The first matches of ``pattern`` in the output; fewer when the program ends, or does not print them in time."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.is_running  # asked first: what it printed at its end counts
            found = list(re.finditer(pattern, self.output()))
            if len(found) >= times or not running or time.monotonic() > deadline:
                return found[:times]
            time.sleep(0.05)

    def end(self) -> None:
        """End it and all that it started. Safe to call twice."""
        if self._output.closed:
            return
        for number, patience in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._output.close()
