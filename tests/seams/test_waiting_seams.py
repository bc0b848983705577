"""What a task run's wait for another one uses of Prefect still works as ``rayworks/runner/_private.py`` says."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.utilities.timeout import timeout

from rayworks.runner import _private


@pytest.fixture
def alarm_of_prefect() -> Iterator[None]:
    """Prefect sets the alarm that pytest-timeout uses as well, as it does in a worker."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGALRM, handler)


def test_a_time_limit_that_passes_within_rays_code_holds_when_the_wait_ends(
    alarm_of_prefect: None, monkeypatch: pytest.MonkeyPatch
):
    def wait(references: list[str], **_: Any) -> tuple[list[str], list[str]]:
        with contextlib.suppress(BaseException):  # as Ray discards what the handler of a signal raises
            signal.raise_signal(signal.SIGALRM)
        return [], references

    monkeypatch.setattr("ray.wait", wait)
    with pytest.raises(TimeoutError), timeout(60):
        _private.wait_without_cpu("a reference", 0.1)


def test_a_wait_in_short_steps_ends_with_the_object_or_at_its_limit(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []

    def wait(references: list[str], *, timeout: float, fetch_local: bool) -> tuple[list[str], list[str]]:
        waits.append(timeout)
        return (references, []) if len(waits) == 3 else ([], references)

    monkeypatch.setattr("ray.wait", wait)
    assert _private.wait_without_cpu("a reference", None)
    assert waits == [_private.SHIELDED_SECONDS] * 3
    assert not _private.wait_without_cpu("a reference", 0.1)
    assert 0 < waits[-1] <= 0.1


@pytest.mark.parametrize("is_upstream", [True, False])
def test_ray_says_that_a_task_could_not_run_for_its_upstream(ray_session: None, is_upstream: bool):
    import ray

    @ray.remote(max_retries=0)
    def fail(value: Any) -> None:
        raise ValueError(value)

    error: Exception | None = None
    failed = fail.remote("of the task itself")
    try:
        ray.get(fail.remote(failed) if is_upstream else failed)
    except ValueError as raised:
        error = raised
    assert _private.lacks_upstream(error) == is_upstream
    assert "of the task itself" in str(error)


def test_a_result_that_was_lost_is_not_an_upstream_that_crashed():
    from ray.exceptions import ObjectLostError, RayTaskError, WorkerCrashedError

    frame = 'File "python/ray/_raylet.pyx", line 1, in ray._raylet.raise_if_dependency_failed'
    causes: list[Exception] = [ObjectLostError("00" * 28, None, ""), WorkerCrashedError()]
    errors = [
        RayTaskError("task", f"Traceback \n  {frame}", cause, "task", 1, "127.0.0.1").as_instanceof_cause()
        for cause in causes
    ]
    assert [_private.lacks_upstream(error) for error in errors] == [False, True]
