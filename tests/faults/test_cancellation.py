"""However a flow ends, nothing that it started runs on: neither on a Ray of its own nor on one that was there."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import eventually

PROGRAM = Path(__file__).parent / "flow_that_waits.py"
MARK = "RAYWORKS_TEST_MARK"


def processes_with(mark: str) -> list[str]:
    """Command lines of the live processes that inherited the mark."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            marked = f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked and command:
            found.append(f"{process.name} {command[:120]}")
    return found


class Program:
    """The flow in a process of its own, all of whose descendants carry a mark."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self.progress = folder / "progress"
        self.progress.mkdir()
        own = {
            MARK: self.mark,
            "RAYWORKS_STORAGE_URI": str(folder / "storage"),
        }
        inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.progress), *arguments],
            env={**inherited, **own, **environment},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_working(self) -> None:
        eventually(
            lambda: self.process.poll() is not None or len(list(self.progress.iterdir())) == 2,
            90,
            "the tasks never ran",
        )
        assert self.process.poll() is None, self.output()

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def assert_nothing_left(self, but: tuple[str, ...] = ()) -> None:
        def left() -> list[str]:
            return [line for line in processes_with(self.mark) if not line.partition(" ")[2].startswith(but or "-")]

        deadline = time.monotonic() + 30
        while left() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left() == [], self.output()


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home of Prefect that only the first program has to migrate, which takes longer than all that it tests."""
    return str(tmp_path_factory.mktemp("prefect"))


@pytest.fixture
def program(tmp_path: Path, prefect_home: str) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*arguments: str, **environment: str) -> Program:
        started.append(Program(tmp_path, *arguments, **{"PREFECT_HOME": prefect_home, **environment}))
        return started[-1]

    yield start
    for one in started:
        for line in processes_with(one.mark):
            os.kill(int(line.split()[0]), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_the_flow_ends_its_ray_its_server_and_its_nested_actors(program, number: signal.Signals) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.send_signal(number)
    flow.process.wait(timeout=40)
    flow.assert_nothing_left()


def test_a_killed_flow_takes_all_with_it_but_the_agents_of_ray_which_end_by_themselves(program) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.kill()
    flow.process.wait()
    # These two try for a minute to tell the driver of the end of their raylet (ray._private.process_watcher).
    flow.assert_nothing_left(but=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))


def test_ctrl_c_twice_leaves_nothing(program) -> None:
    flow = program()
    flow.wait_until_working()
    flow.process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # an impatient hand
    flow.process.send_signal(signal.SIGINT)
    flow.process.wait(timeout=40)
    flow.assert_nothing_left()


def test_a_flow_that_fails_does_not_wait_for_the_tasks_it_left(program) -> None:
    flow = program("fail")
    flow.process.wait(timeout=90)
    assert "the flow fails while its tasks run" in flow.output()
    assert "Cancelled 2 task runs" in flow.output()
    flow.assert_nothing_left()
