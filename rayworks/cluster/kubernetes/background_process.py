"""A program that runs beside this process, and prints when it is ready."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

END_SECONDS = 10


class BackgroundProcess:
    """A program in a session of its own: a Ctrl-C does not reach it while this process still needs it.

    Args:
        command: The program and its arguments.
        environment: Variables beside those of this process.
        reads_line: Whether the program reads a line, sent by :meth:`send_line`. Its input ends when this process does.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str] | None = None, *, reads_line: bool = False
    ) -> None:
        # A file, not a pipe: the program does not block when its output is not read.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._process = subprocess.Popen(
            command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE if reads_line else subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send_line(self, line: str) -> None:
        """Send the line that the program reads. If it has ended, nothing happens."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(line.encode() + b"\n")

    def output(self) -> str:
        """Return all that the program has printed."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def last_line(self) -> str:
        """Return the last line of the output that is not empty."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def wait_for(self, pattern: str, *, times: int = 1, seconds: float) -> list[re.Match[str]]:
        """Wait until the output matches a pattern.

        Args:
            pattern: A regular expression.
            times: How many matches to wait for.
            seconds: How long to wait at most.

        Returns:
            The first matches; fewer than ``times`` if the program ends, or does not print them in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            is_running = self.is_running  # checked first, so that its last output counts
            matches = list(re.finditer(pattern, self.output()))
            if len(matches) >= times or not is_running or time.monotonic() > deadline:
                return matches[:times]
            time.sleep(0.05)

    def end(self) -> None:
        """End the program and all processes of its session. May be called twice."""
        if self._output.closed:
            return
        for number, patience in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        if self._process.stdin:
            self._process.stdin.close()
        self._output.close()
