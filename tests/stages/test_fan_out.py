"""A function over many items on a real Ray: each item once, each failure by itself, and again where it was stopped."""

import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rayworks import fan_out, ray_error
from rayworks.errors import ItemsError, ParameterError, StorageError, TransferError
from rayworks.items import parts
from rayworks.items.fan_out import stage
from rayworks.items.options import FanOutOptions
from rayworks.items.result import FanOutResult, failure_rows
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(autouse=True)
def storage(storage_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The storage of all calls of a test. Workers need not find this module."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    return storage_uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where calls leave files."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def note(folder: Path, item: int) -> None:
    """Leave a file for this call."""
    (folder / f"{item}-{time.monotonic_ns()}").touch()


def calls(folder: Path) -> Counter[int]:
    """How often each item was called."""
    return Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())


def test_every_item_has_one_result_in_order():
    result = fan_out(lambda number: number**2, range(3000))
    assert list(result.results()) == [(number, number**2) for number in range(3000)]
    assert (result.items, result.failed, result.found) == (3000, 0, 0)


def test_of_two_equal_runs_at_a_time_one_waits_and_finds_the_results_of_the_other(folder: Path):
    def slow(number: int) -> int:
        note(folder, number)
        time.sleep(0.05)
        return number

    told: list[str] = []

    def run() -> FanOutResult:
        return fan_out(slow, range(40), progress=lambda fraction, message: told.append(message))

    with ThreadPoolExecutor(2) as pool:
        first, second = (running.result() for running in [pool.submit(run), pool.submit(run)])
    assert first == second
    assert calls(folder) == Counter(range(40)), "items were called twice"
    assert any(f"waits for {socket.gethostname()}, process {os.getpid()}" in message for message in told)
    assert "40 items, processed by another run" in told


def test_items_that_suddenly_take_long_are_shared_by_all_workers(folder: Path):
    """Chunks have grown by items that took nothing, when the others come."""

    def later_slow(number: int) -> int:
        if number >= 5000:
            note(folder, os.getpid())
            time.sleep(0.05)
        return number

    result = fan_out(later_slow, range(5200))
    assert list(result.results()) == [(number, number) for number in range(5200)]
    assert calls(folder).total() == 200, "a slow item was called again"
    assert min(calls(folder).values()) > 20, "one worker had most of them"


def test_no_items_give_no_results():
    assert list(fan_out(str, []).results()) == []


def misbehave(number: int) -> int:
    """Fail for ten items of a thousand, hang for two, and end the process for one."""
    if number % 100 == 42:
        raise ValueError(f"{number} is not wanted")
    if number == 300:
        time.sleep(3600)
    if number == 600:
        return sum(range(10**15))  # in C, without a look at signals
    if number == 777:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


def test_every_kind_of_failure_costs_its_item_alone():
    result = fan_out(misbehave, range(1000), timeout_seconds=1, max_failures=20)
    failures = {failure.item: failure for failure in result.failures()}
    kinds = dict.fromkeys(range(42, 1000, 100), "ValueError")
    kinds |= {300: "Timeout", 600: "Timeout", 777: "WorkerCrashed"}
    assert {item: failure.kind for item, failure in failures.items()} == kinds
    assert list(result.results()) == [(number, number) for number in range(1000) if number not in kinds]
    assert result.failed == 13
    assert result.failures_by_kind == {"ValueError": 10, "Timeout": 2, "WorkerCrashed": 1}
    assert failures[600].error == "no result within 1 s; it did not react, so its worker process was ended"
    assert all(" pid " in failure.worker for failure in failures.values())
    assert failure_rows(result.uri)[0]["error"] == "42 is not wanted"


def test_a_run_with_failures_ends_after_all_items_and_the_same_call_retries_those_that_failed(folder: Path):
    def work(number: int, folder: str, mended: str) -> int:
        note(Path(folder), number)
        if number in (3, 7) and not Path(mended).exists():
            raise ConnectionError("the service is away")
        return number

    arguments = {"folder": str(folder), "mended": str(folder.with_name("mended"))}
    with pytest.raises(
        ItemsError, match=r"^2 of 20 items failed \(2 ConnectionError\); all others succeeded"
    ) as raised:
        fan_out(work, range(20), arguments=arguments)
    assert "the first is item 3 (3): ConnectionError: the service is away" in str(raised.value)
    assert set(calls(folder)) == set(range(20))
    Path(arguments["mended"]).touch()
    result = fan_out(work, range(20), arguments=arguments)
    assert list(result.results()) == [(number, number) for number in range(20)]
    assert list(result.failures()) == []
    assert result.found == 18
    assert calls(folder) == {**dict.fromkeys(range(20), 1), 3: 2, 7: 2}


def test_a_finished_run_is_found_and_not_repeated(folder: Path):
    def work(number: int, folder: str) -> int:
        note(Path(folder), number)
        return number

    first = fan_out(work, range(5), arguments={"folder": str(folder)})
    assert fan_out(work, range(5), arguments={"folder": str(folder)}, num_cpus=2) == first
    assert calls(folder) == dict.fromkeys(range(5), 1)
    assert fan_out(work, range(6), arguments={"folder": str(folder)}).uri != first.uri


def test_one_failure_more_than_allowed_ends_the_run_at_once(folder: Path):
    def work(number: int, folder: str) -> None:
        if number < 3:
            raise ValueError("no")
        time.sleep(0.05)
        note(Path(folder), number)

    with pytest.raises(ItemsError, match=r"^3 of 1,000 items failed .*; 2 are allowed, so the run ended"):
        fan_out(work, range(1000), arguments={"folder": str(folder)}, max_failures=2, chunk_items=1)
    time.sleep(0.2)
    assert len(calls(folder)) < 50


def test_a_class_is_built_once_in_each_worker(folder: Path):
    class Model:
        def __init__(self, folder: str) -> None:
            note(Path(folder), os.getpid())

        def __call__(self, item: int) -> int:
            time.sleep(0.001)
            return os.getpid()

    result = fan_out(Model, range(500), arguments={"folder": str(folder)})
    workers = {worker for _, worker in result.results()}
    assert calls(folder) == dict.fromkeys(workers, 1)


def test_more_memory_or_cpus_than_there_are_is_asked_of_ray():
    def resources(item: int) -> dict[str, float]:
        import ray

        return ray.get_runtime_context().get_assigned_resources()

    result = fan_out(resources, [0], num_cpus=2, memory_gib=0.1)
    assert [assigned for _, assigned in result.results()] == [{"CPU": 2.0, "memory": int(0.1 * 1024**3)}]


def in_a_task(options: FanOutOptions, items: str = "0:3") -> FanOutResult:
    """What the flow's task does, on a Ray worker."""
    import ray

    def coordinate(storage_uri: str) -> FanOutResult:
        return stage("json:dumps", items, options, storage_uri=storage_uri).create(lambda *_: None)

    try:
        return ray.get(ray.remote(num_cpus=0)(coordinate).remote(os.environ["RAYWORKS_STORAGE_URI"]))
    except ray.exceptions.RayError as error:
        raise ray_error.cause(error) from error


def test_a_coordinator_on_a_worker_processes_lines_of_a_file(tmp_path: Path):
    (tmp_path / "lines.txt").write_text("a\n\nb\n")
    result = in_a_task(FanOutOptions(), str(tmp_path / "lines.txt"))
    assert list(result.results()) == [(0, '"a"'), (1, '"b"')]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fan_out("no_such_module:work", [1]), ParameterError, "could not be imported: no_such_module"),
        (lambda: fan_out("json:no_such", [1]), ParameterError, "The module has no function 'no_such'"),
        (lambda: fan_out(lambda: 1, [1]), ParameterError, "cannot be called with an item"),
        (lambda: fan_out(str, "nothing.txt"), StorageError, r"does not exist: .*nothing\.txt"),
        (lambda: fan_out(str, [1], retries=-1), ParameterError, "^An option is invalid: retries"),
        (lambda: fan_out(str, [1], retry=1), ParameterError, "^An option is invalid: retry"),
    ],
)
def test_bad_input_is_a_sentence_before_anything_runs(
    call: Callable[[], Any], error: type[Exception], message: str, storage: str
):
    with pytest.raises(error, match=message):
        call()
    assert not Path(storage, "fan-out").exists()


def test_a_request_that_no_node_can_meet_is_a_sentence():
    with pytest.raises(
        ParameterError, match=r"^No node of Ray has what a call requests: 1 CPU, 3 tpu \(they have 2 CPU\)"
    ):
        in_a_task(FanOutOptions(resources={"tpu": 3}))


def test_results_on_another_disk_than_this_process_sees_are_noticed_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "ranges", lambda *_: {})
    with pytest.raises(StorageError, match=r"^Workers have stored the results of 1 items, of which 0 are here: "):
        fan_out(lambda number: number, range(10_000), chunk_items=10)


def test_a_worker_that_is_lost_again_and_again_costs_no_item(folder: Path):
    """Workers end from outside, as by a node that leaves: its items are processed again."""

    def work(number: int, folder: str) -> int:
        Path(folder, str(os.getpid())).touch()
        time.sleep(0.02)
        return number

    def kill_two() -> None:
        for _ in range(2):
            begun = eventually(lambda: list(folder.iterdir()))[0]
            time.sleep(0.5)
            os.kill(int(begun.name), signal.SIGKILL)
            begun.unlink()

    killer = threading.Thread(target=kill_two)
    killer.start()
    result = fan_out(work, range(300), arguments={"folder": str(folder)})
    killer.join()
    assert list(result.results()) == [(number, number) for number in range(300)]


def test_a_module_that_workers_do_not_find_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "only_here.py").write_text("def work(item): return item")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(TransferError, match=r"^A worker cannot load .*No module named 'only_here'\)\. Install"):
        fan_out(only_here.work, range(3))
