"""A Prefect server on PostgreSQL, both as programs of this machine, which tests may kill and start again."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rayworks.cluster import preflight
from rayworks.free_port import free_port
from tests.waiting import eventually


class PrefectOnPostgreSQL:
    """The database and the server. Neither loses what was committed when it is killed."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        self._programs = programs[-1]
        # Not as root, whom PostgreSQL refuses, and in a folder that its user may enter.
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.folder = Path(tempfile.mkdtemp(prefix="rayworks-postgresql-"))
        shutil.chown(self.folder, user.pw_uid, user.pw_gid)
        self._identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "cwd": self.folder}
        self._database_port, port = free_port(), free_port()
        self.api_url = f"http://127.0.0.1:{port}/api"
        create = [self._programs / "initdb", "-D", self.folder / "data", "-U", "prefect", "--auth=trust"]
        subprocess.run(create, check=True, capture_output=True, **self._identity)
        (self.folder / "home").mkdir()

    def start_database(self) -> None:
        """Start PostgreSQL, which recovers what was committed, and return when it accepts connections."""
        port = str(self._database_port)
        serve = ["-D", self.folder / "data", "-p", port, "-h", "127.0.0.1", "-k", self.folder]
        command = [self._programs / "postgres", *serve]
        self.database = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, **self._identity)
        ready = [self._programs / "pg_isready", "-h", "127.0.0.1", "-p", port]
        eventually(lambda: not subprocess.run(ready, capture_output=True, check=False).returncode, 60)

    def start_server(self, **settings: str) -> None:
        """Start the Prefect server, and return when it responds."""
        environment = {
            **os.environ,
            **settings,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://prefect@127.0.0.1:{self._database_port}/postgres",
        }
        port = self.api_url.rpartition(":")[2].partition("/")[0]
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        eventually(lambda: not preflight.http_problem(f"{self.api_url}/health"), 280, every=0.5)

    def stop(self) -> None:
        """End both, and delete what they wrote."""
        for process in (self.server, self.database):
            process.terminate()
            process.wait(timeout=60)
        shutil.rmtree(self.folder)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with its children, as the end of a machine does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
