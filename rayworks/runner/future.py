"""The future of a task run on Ray."""

import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.exceptions import UnfinishedRun
from prefect_ray.task_runners import PrefectRayFuture

from rayworks.errors import ClusterLostError, RayworksError
from rayworks.runner import _private
from rayworks.runner.crashes import UPSTREAM_CRASHED, not_ready
from rayworks.runner.session import RaySession

if TYPE_CHECKING:
    from prefect.tasks import Task

logger = logging.getLogger(__name__)

MAX_RUNS = 3
"""How often a flow run is started whose Ray cluster is lost, each time on another cluster."""


class RayFuture(PrefectRayFuture[Any]):
    """A future of prefect_ray that waits and calls back outside of Ray's own code.

    ``ray.get`` discards the exception that Prefect's SIGTERM handler raises while it waits. Only a worker waits in
    Ray's code, which lets other task runs have its CPU meanwhile. A callback in one of Ray's
    own threads would wait forever as soon as it asks Ray for the result.

    Args:
        task: The task.
        task_run_id: ID of the task run.
        reference: Ray's reference to the last state of the task run.
        session: The connection to Ray.
    """

    def __init__(self, task: "Task[..., Any]", task_run_id: UUID, reference: Any, session: RaySession) -> None:
        super().__init__(task_run_id=task_run_id, wrapped_future=reference)
        self._task_name = task.name
        self._session = session

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs whose task waits for this future: the session belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _session=RaySession())

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the task run, at most ``timeout`` seconds.

        Raises:
            ClusterError: Ray has ended.
        """
        if not self._wait_for_ray(timeout):
            return
        super().wait()
        state = _private.final_state(self)
        if state and state.is_crashed() and _private.lacks_upstream(state.data):
            self._final_state = not_ready()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Wait for the result of the task run, at most ``timeout`` seconds.

        Raises:
            ClusterError: Ray has ended, or it could not finish the task, for example for lack of memory.
            TimeoutError: The task run has not ended in time.
            UnfinishedRun: The task did not run, because one that it depends on has crashed.
        """
        from ray.exceptions import RayError

        if not self._wait_for_ray(timeout):
            raise TimeoutError(f"Task run {self.task_run_id} did not complete within {timeout} seconds")
        try:
            result: Any = super().result(raise_on_failure=raise_on_failure)
        except RayError as error:
            if _private.lacks_upstream(error):
                raise UnfinishedRun(UPSTREAM_CRASHED) from error
            if explanation := self._session.explain(self._task_name, error):
                raise explanation from error
            raise
        if state := _private.final_state(self):
            _private.link_result(state, result)  # a task that gets the result is shown as downstream of this one
        return result

    def add_done_callback(self, fn: Callable[[PrefectRayFuture[Any]], Any]) -> None:
        """Call ``fn`` with this future once the task run has ended, or Ray has; at once if the task run has ended."""
        if _private.final_state(self):
            fn(self)
            return
        ended = _private.concurrent_future(self.wrapped_future)
        self._session.call_after(ended, functools.partial(self._call_back, fn))

    def _call_back(self, fn: Callable[[PrefectRayFuture[Any]], Any]) -> None:
        try:
            with contextlib.suppress(RayworksError):  # the caller's result() raises it
                self.wait()
            fn(self)
        except Exception:  # concurrent.futures logs the errors of callbacks as well
            logger.exception("A callback of task run %s failed", self.task_run_id)

    def _wait_for_ray(self, timeout: float | None) -> bool:
        """Wait, and return whether the task run has ended."""
        if _private.final_state(self):
            return True
        if self._session.is_in_worker:
            return _private.wait_without_cpu(self.wrapped_future, timeout)
        ended, lost = _private.concurrent_future(self.wrapped_future), self._session.lost
        concurrent.futures.wait([ended, lost], timeout, return_when=concurrent.futures.FIRST_COMPLETED)
        if not ended.done() or ended.exception():
            raise_if_lost(self._session)
        return ended.done()


def raise_if_lost(session: RaySession) -> None:
    """Raise why Ray has ended, if it has."""
    if session.lost.done():
        raise_from_cluster(session.lost.result())


def raise_from_cluster(error: RayworksError) -> NoReturn:
    """Raise an error of a cluster. If another one can take the place of a lost one, let Prefect retry the flow run."""
    context = FlowRunContext.get()
    if isinstance(error, ClusterLostError) and context and context.flow_run:
        _allow_retry(context.flow_run.id)
    raise error


def _allow_retry(flow_run_id: UUID) -> None:
    """Raise the retries of a flow run by one. Only a lost cluster is worth it; a failure would happen again."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(flow_run_id)
        policy, count = flow_run.empirical_policy, flow_run.run_count
        if count < MAX_RUNS and (policy.retries or 0) < count:
            policy = policy.model_copy(update={"retries": count, "retry_delay": 0})
            client.update_flow_run(flow_run_id, empirical_policy=policy)
