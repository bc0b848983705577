"""What becomes of futures whose Ray is lost. No Ray."""

import concurrent.futures
import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.futures import as_completed, wait

from rayworks.errors import ClusterLostError
from rayworks.runner.future import RayFuture
from rayworks.runner.session import RaySession
from tests.waiting import eventually

Lost = concurrent.futures.Future[ClusterLostError]
REASON = ClusterLostError("the Ray head is lost")


class Reference:
    """A reference to an object that may come to exist."""

    def __init__(self) -> None:
        self.exists: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.is_awaited = False

    def future(self) -> concurrent.futures.Future[Any]:
        self.is_awaited = True
        return self.exists


@pytest.fixture
def lost() -> Lost:
    return concurrent.futures.Future()


@pytest.fixture
def futures(lost: Lost) -> list[RayFuture]:
    """Two task runs that do not end."""
    session = RaySession(SimpleNamespace(lost=lost))  # type: ignore[arg-type]
    task: Any = SimpleNamespace(name="work")
    return [RayFuture(task, uuid4(), Reference(), session) for _ in range(2)]


@pytest.mark.parametrize("wait_for", [as_completed, wait])
def test_a_wait_for_futures_ends_when_ray_is_lost_and_their_results_raise_why(
    lost: Lost, futures: list[RayFuture], wait_for: Callable[..., Any]
):
    def ended() -> set[RayFuture]:
        waited = wait_for(futures, timeout=20)
        return waited.done if wait_for is wait else set(waited)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(ended)
        eventually(lambda: all(future.wrapped_future.is_awaited for future in futures))
        lost.set_result(REASON)
        assert waiting.result() == set(futures)
    for future in futures:
        with pytest.raises(ClusterLostError, match="The Ray head is lost"):
            future.result()


def test_a_callback_is_called_once_although_the_task_run_ends_with_ray(lost: Lost, futures: list[RayFuture]):
    called: list[RayFuture] = []
    for future in futures:
        future.add_done_callback(called.append)
    lost.set_result(REASON)
    for future in futures:
        future.wrapped_future.exists.set_exception(ValueError("lost as well"))
    futures[0]._session._threads.shutdown(wait=True)
    assert len(called) == 2


def test_a_future_that_has_ended_is_not_kept_for_the_case_that_ray_is_lost(futures: list[RayFuture]):
    called: list[None] = []
    future = futures.pop()
    vars(future)["_wait_for_ray"] = lambda timeout: False
    future.add_done_callback(lambda _: called.append(None))
    future.wrapped_future.exists.set_result("a state")
    kept = weakref.ref(future)
    del future
    eventually(lambda: called and (gc.collect(), kept() is None)[1])
