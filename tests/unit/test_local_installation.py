"""What ``deployments/local.py`` says and ends when something is not as it should be."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import local
from rayworks.errors import ClusterError
from rayworks.prefect_api import registration
from tests.waiting import eventually

STUBBORN = """
import os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from deployments import local
local.adopt_orphans()
local.end_on_signals()
child = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
child += "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True).pid);"
child += "sys.stdout.flush(); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print(process.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("ending", flush=True)
    process.terminate()
    process.wait()
"""

ENDING_AFTER_AN_ERROR = """
import os, subprocess, sys, tempfile, time
os.environ["PREFECT_HOME"] = tempfile.mkdtemp()
sys.path.insert(0, sys.argv[1])
from deployments import local
from rayworks.errors import ClusterError
def start(installation):
    print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
    raise ClusterError("mlflow has ended")
local.start = start
local.Installation.end = lambda installation: time.sleep(600)  # a run that takes long to end
local.main()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_signal_kills_what_does_not_end_and_what_that_has_started():
    command = [sys.executable, "-c", STUBBORN, str(local.ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = sorted(int(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == "ending"
        assert all(map(is_running, pids))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 128 + signal.SIGINT
    assert not any(map(is_running, pids))


def test_a_signal_while_an_installation_ends_after_an_error_kills_what_is_left():
    command = [sys.executable, "-c", ENDING_AFTER_AN_ERROR, str(local.ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert "Ending the runs and the servers" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 1
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == "Mlflow has ended.\n"
    assert not is_running(left)


def test_a_process_that_ends_is_named_with_its_last_line_and_its_log(tmp_path: Path):
    installation = local.Installation(tmp_path)
    installation.start("mlflow", "http.server", "no-port")
    with pytest.raises(ClusterError, match=r"Mlflow has ended.*exit code 2.*no-port.*Read its log, .*mlflow\.log") as e:
        installation.wait_until(lambda: False)
    assert str(tmp_path / "mlflow.log") in str(e.value)


def test_a_port_in_use_is_a_sentence():
    with socket.create_server((local.HOST, 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"The port is in use: 127\.0\.0\.1:{port} .*Stop it\."):
            local.check_port(port, "Stop it")


def test_a_server_that_is_configured_and_away_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ClusterError, match=r"server does not respond: http://127\.0\.0\.1:9/api\. Start that"),
    ):
        local.start_prefect(local.Installation(tmp_path))


def test_a_grandchild_that_has_ended_does_not_run_although_its_parent_is_stopped():
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        parent.send_signal(signal.SIGSTOP)
        assert local.children(parent.pid) == [grandchild]
        assert local.is_running(grandchild)
        os.kill(grandchild, signal.SIGTERM)
        eventually(lambda: not local.is_running(grandchild), 20)
        parent.kill()


def test_an_entry_of_prefect_yaml_takes_precedence_over_what_people_set():
    entry = {"name": "tune", "parameters": {"a": 1}, "work_pool": {"job_variables": {"image": "b"}}}
    assert registration.kept(entry, "local", None) == {**entry, "work_pool": {"name": "local", **entry["work_pool"]}}
