"""OpenMP and BLAS have as many threads as the task of a worker process has CPUs."""

import importlib

import pytest
import threadpoolctl

from rayworks.task_threads import TaskThreads


@pytest.fixture
def threads(monkeypatch):
    """Returns the numbers of threads that the loaded libraries have after ``TaskThreads`` saw a variable's value."""
    process = TaskThreads()
    importlib.import_module("sklearn.ensemble")  # brings OpenMP and BLAS

    def after(value: str | None) -> set[int]:
        if value is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", value)
        process.set()
        return {library["num_threads"] for library in threadpoolctl.threadpool_info()}

    with threadpoolctl.threadpool_limits(5):
        yield after


def test_loaded_libraries_follow_the_cpus_of_each_task(threads):
    assert [threads(each) for each in ("1", "3", "3", "2")] == [{1}, {3}, {3}, {2}]


def test_without_a_number_of_threads_they_are_left_alone(threads):
    assert [threads(each) for each in (None, "all", "")] == [{5}, {5}, {5}]
