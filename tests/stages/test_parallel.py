"""Bounded work over a real Ray: each item once, and errors as they were raised."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayworks import parallel
from rayworks.errors import DataError
from rayworks.ray_error import MemoryReport, cause, node_of

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_item_gives_one_result():
    assert sorted(parallel.map_unordered(lambda number: number**2, range(10))) == [n**2 for n in range(10)]


def test_results_may_be_any_picklable_object():
    assert list(parallel.map_unordered(lambda word: {word: {len(word)}}, ["four"])) == [{"four": {4}}]


def test_no_items_give_no_results():
    assert list(parallel.map_unordered(str, [])) == []


def test_a_rayworks_error_keeps_its_class_and_its_sentence():
    def refuse(number: int) -> None:
        if number == 3:
            raise DataError("the row is empty", where=f"row {number}", remedy="Fix it")

    with pytest.raises(DataError, match=r"^The row is empty: row 3\. Fix it\.$"):
        list(parallel.map_unordered(refuse, range(5)))


def test_any_other_error_is_raised_as_it_was():
    with pytest.raises(ZeroDivisionError, match="integer division or modulo by zero"):
        list(parallel.map_unordered(lambda number: 1 // number, [0]))


def test_what_an_item_raised_can_become_its_result():
    def as_text(number: int, error: Exception) -> str:
        return f"{number} {type(cause(error)).__name__}"

    results = parallel.map_unordered(lambda number: f"{6 // number}", range(3), on_failure=as_text)
    assert set(results) == {"0 ZeroDivisionError", "6", "3"}


def test_items_are_submitted_as_results_are_consumed():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = parallel.map_unordered(lambda number: number, items(), in_flight=3)
    assert next(results) < 3
    assert len(taken) == 3
    next(results)
    assert len(taken) == 4
    results.close()


def test_a_failure_cancels_what_has_not_begun(tmp_path: Path):
    def work(number: int) -> None:
        if number == 0:
            raise DataError("the row is empty")
        time.sleep(0.5)
        (tmp_path / str(number)).touch()

    with pytest.raises(DataError):
        list(parallel.map_unordered(work, range(50)))
    list(parallel.map_unordered(str, range(4)))  # these come after what was submitted before
    assert len(list(tmp_path.iterdir())) < 10


def test_the_node_where_memory_ran_out_has_its_name_which_on_kubernetes_is_that_of_its_pod():
    import ray

    address = ray.util.get_node_ip_address()
    assert node_of(MemoryReport(address, "")) == f"node {socket.gethostname()} ({address})"
    assert node_of(MemoryReport("192.0.2.7", "")) == "node 192.0.2.7"
    assert node_of(MemoryReport("", "")) == ""


def test_libraries_have_a_thread_for_each_cpu_of_a_task_in_a_process_whose_tasks_before_had_others():
    def threads(_: int) -> tuple[int, set[int]]:
        import sklearn.ensemble  # noqa: F401 - brings OpenMP and BLAS
        import threadpoolctl

        return os.getpid(), {library["num_threads"] for library in threadpoolctl.threadpool_info()}

    before: dict[int, set[int]] = {}
    for cpus in [1, 2] * 20:
        [(process, found)] = parallel.map_unordered(threads, [0], num_cpus=cpus)
        assert found == {cpus}
        if process in before and before[process] != found:
            return
        before[process] = found
    pytest.fail("no process ran tasks of one CPU and of two")
