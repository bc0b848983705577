"""The task runner for flows: Prefect's states, logs and retries, with the work on Ray.

Library code that runs in a task logs by ``logging.getLogger(__name__)``.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from prefect.context import FlowRunContext, SettingsContext, TagsContext, TaskRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as flow_run_of_process
from prefect_ray.task_runners import PrefectRayFuture

from rayworks.capacity import requests_of
from rayworks.cluster import preflight
from rayworks.errors import ClusterError, RayworksError
from rayworks.prefect_api import server
from rayworks.prefect_api.run_log import attach_run_log
from rayworks.runner import _private, serialization, stalls, transactions, unpicklable
from rayworks.runner.crashes import report_crashed_task_runs
from rayworks.runner.future import RayFuture, raise_from_cluster, raise_if_lost
from rayworks.runner.in_flight import InFlight, Nested, SubmittedTaskRun
from rayworks.runner.nested_output import NestedOutput
from rayworks.runner.outbox import Outbox
from rayworks.runner.resources import TaskOptions
from rayworks.runner.session import RaySession, ray_running
from rayworks.runner.worker import (
    TaskCall,
    TaskRunEnd,
    outbox_of_worker,
    remote_run_task,
    remote_run_task_with_more_memory,
)
from rayworks.settings import STALL_SECONDS, Settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner
    from prefect.tasks import Task
    from prefect.transactions import Transaction

    class PrefectRayTaskRunner(TaskRunner[PrefectFuture[Any]]):
        """prefect_ray's task runner, with the type that ``@flow(task_runner=…)`` accepts.

        That is a ``TaskRunner[PrefectFuture]``, whose parameter is invariant: prefect_ray's
        ``TaskRunner[PrefectRayFuture]`` does not fit (Prefect 3.8.8, prefect-ray 0.6.0).
        """

        address: str | None
        init_kwargs: dict[str, Any]

        def __init__(self, address: str | None, init_kwargs: dict[str, Any] | None) -> None: ...
        def duplicate(self) -> Self: ...
else:
    from prefect_ray import RayTaskRunner as PrefectRayTaskRunner


IN_FLIGHT = 10_000
"""How many task runs a flow may have on Ray before a submit waits for one of them to end."""
WAIT_SECONDS = 0.05


class RayTaskRunner(PrefectRayTaskRunner):
    """Runs each task of a flow as a Ray task.

    Args:
        address: Where Ray runs: ``auto``, ``host:port`` or ``ray://host:port`` of an existing Ray cluster, or a
            RayCluster manifest. By default ``RAYWORKS_RAY_ADDRESS``, read when the flow starts. Without either,
            embedded Ray.
        init_kwargs: More arguments for ``ray.init``.

    A runner also gives Prefect's temporary server, which starts before it, two minutes to start, unless a setting of
    Prefect says otherwise.

    A task and the context of its flow run are sent to Ray when the task is first submitted in a flow run. If a variable
    that the task's function closes over changes later, the task's later runs do not see it.
    """

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(address=address, init_kwargs=init_kwargs)
        # Here, because Prefect starts its temporary server for a flow before the flow's task runner.
        server.set_defaults()
        self._failure: RayworksError | None = None
        self._output: NestedOutput | None = None
        self._flow_run_id: UUID | None = None
        self._shared: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self._preflight: preflight.Preflight | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        _private.start_without_ray(self)
        _private.keep_annotations_when_pickled()
        # Not earlier: a flow of the program's own module is pickled with its runner, and a session cannot be.
        self._session = RaySession()
        self._outbox = outbox_of_worker() or Outbox()
        self._in_flight = InFlight(self._outbox)
        self._stall_seconds = STALL_SECONDS
        # Before Ray starts, so that the log shows what a cluster waits for. Prefect starts a flow's runner before the
        # flow run's context (PrefectHQ/prefect#17776), but a run of a deployment is known by its environment.
        attach_run_log(flow_run_of_process.id)
        try:
            self._stall_seconds = Settings().stall_seconds
            self._session = self._stack.enter_context(ray_running(self.address, self.init_kwargs))
            self._preflight = self._session.start_preflight()
        except RayworksError as error:
            self._failure = error  # raised by the first submit: an error here would leave the flow run in state Running
        self._waiting_tasks = stalls.WaitingTaskWatch(self._in_flight.oldest, self._stall_seconds, self._session)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        try:
            self._waiting_tasks.stop()
            if self._session.lost.done():
                self._in_flight.abandon()
            else:
                self._in_flight.end()
                if cancelled := self._in_flight.unfinished:
                    self.logger.warning(
                        f"Cancelled {len(cancelled)} task runs on Ray that had not ended when the flow did."
                    )
            if self._outbox is not outbox_of_worker():
                self._outbox.close()
            report_crashed_task_runs(self._flow_run_id, self._in_flight, self._session)
            if self._flow_run_id:
                server.expect(str(self._flow_run_id), self._in_flight.recorded)
        finally:
            if self._output:
                self._output.stop()
            self._shared.clear()
            self._stack.close()
            _private.stop_without_ray(self, *exc_info)

    def submit(
        self,
        task: "Task[..., Any]",
        parameters: dict[str, Any],
        wait_for: "Iterable[PrefectFuture[Any]] | None" = None,
        dependencies: "dict[str, set[RunInput]] | None" = None,
    ) -> PrefectRayFuture[Any]:
        """Submit one task run to Ray.

        Raises:
            ClusterError: The connection to Ray is lost, or the workers do not fit the driver.
            StorageError: The task needs a shared storage, and the driver cannot write to it.
            TransferError: The task, its flow or a parameter cannot be pickled.
        """
        import ray

        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        if self._failure:
            raise_from_cluster(self._failure)
        raise_if_lost(self._session)
        if not ray.is_initialized():  # over ray://, Ray would start a local cluster without a word
            raise ClusterError("the connection to Ray is lost", remedy="Run the flow again; finished stages are reused")
        options = TaskOptions.of(task)
        if self._preflight:
            self._preflight.check(shared_storage=options.shared_storage)
        self._attach_to_flow_run(task)
        self._wait_for_room()
        task_run_id = uuid4()
        transaction = transactions.around_submit()
        try:
            call = self._call(task, task_run_id, parameters, wait_for, dependencies, transaction)
            state, end = _send(task, options, *call)
        except Exception as error:
            if explanation := unpicklable.explain(task, parameters, error):
                raise explanation from error
            raise
        self._in_flight.add(
            SubmittedTaskRun(task, task_run_id, state, end, requests_of(options.options), tuple(call[1]))
        )
        self._outbox.start()
        self._waiting_tasks.start()
        future = RayFuture(task, task_run_id, state, self._session)
        if transaction:
            transactions.enrol(transaction, state, functools.partial(_end_of, future, end))
        return future

    def hand_over(self) -> Nested | None:
        """Return what the runner of another task run is to go on with: the task run that submitted here has ended."""
        return self._in_flight.hand_over()

    def _wait_for_room(self) -> None:
        """Wait while Ray has very many task runs, or the Prefect API is behind: both fill this process's memory."""
        while len(self._in_flight) >= IN_FLIGHT or self._outbox.is_full():
            raise_if_lost(self._session)
            time.sleep(WAIT_SECONDS)

    def _attach_to_flow_run(self, task: "Task[..., Any]") -> None:
        """Send what nested work prints to the log of the flow run, from its first task on."""
        context = FlowRunContext.get()
        if context and context.flow_run and not context.detached and self._output is None:
            self._flow_run_id = context.flow_run.id
            attach_run_log(self._flow_run_id)
            self._output = NestedOutput(context.flow_run.id)
            self._output.start()
            if dashboard := self._session.dashboard():
                get_run_logger().info(f"The Ray dashboard is at {dashboard}")
        if self._output:
            self._output.task_names.add(task.name)

    def _call(
        self,
        task: "Task[..., Any]",
        task_run_id: UUID,
        parameters: dict[str, Any],
        wait_for: "Iterable[PrefectFuture[Any]] | None",
        dependencies: "dict[str, set[RunInput]] | None",
        transaction: "Transaction | None",
    ) -> tuple[TaskCall, list[Any]]:
        """Return a task run as its worker gets it, and references to the results that it waits for.

        Ray waits for them before it starts the task run: a worker that waited would hold a process, and its CPU.
        """
        with_references, upstream = _private.with_object_refs(self, parameters)
        _, awaited = _private.with_object_refs(self, {"wait_for": wait_for})
        parent = TaskRunContext.get()
        inputs, known = serialization.input_task_runs(parameters), dependencies or {}
        call = TaskCall(
            flow_run=self._share(self._serialized_flow_run, FlowRunContext.get(), SettingsContext.get()),
            task=self._share(lambda: task, task),
            task_run_id=task_run_id,
            parameters=with_references,
            wait_for=wait_for,
            dependencies={name: inputs.get(name, set()) | known.get(name, set()) for name in inputs | known},
            tags=frozenset(TagsContext.get().current_tags),
            parent_task_run=parent.serialize() if parent else {},
            assets=_private.serialized_asset_context(task, task_run_id, inputs),
            has_upstream=bool(upstream),
            transaction=transactions.as_sent(transaction) if transaction else None,
            stall_seconds=self._stall_seconds,
        )
        return call, [*upstream, *awaited]

    def _serialized_flow_run(self) -> dict[str, Any]:
        return serialization.serialized_flow_run(is_elsewhere=self._session.is_elsewhere)

    def _share(self, create: Callable[[], Any], *owners: Any) -> Any:
        """Return the reference to what ``create`` returns, put into Ray's object store once for the same owners."""
        key = tuple(id(owner) for owner in owners)
        if key not in self._shared:
            import ray

            self._shared[key] = (
                ray.put(create()),
                owners,
            )  # the owners are stored so that no other object gets their ids
        return self._shared[key][0]


def _end_of(future: RayFuture, end: Any) -> "tuple[TaskRunEnd, Any]":
    """Wait for the end of a task run, and return it with the data of its last state."""
    import ray

    future.wait()
    return ray.get(end), future.state.data


def _send(task: "Task[..., Any]", options: TaskOptions, call: TaskCall, upstream: list[Any]) -> tuple[Any, Any]:
    """Send a task run to Ray, and return the references to its last state and to its end."""
    if options.max_memory is None:
        remote = remote_run_task(options.max_calls).options(name=task.name, num_returns=2, **options.options)
        return remote.remote(*upstream, call=call)
    inner = {"name": task.name, "memory": options.max_memory / 2, **options.options}
    remote = remote_run_task_with_more_memory().options(name=f"{task.name} (memory)", num_returns=2)
    return remote.remote(upstream, call=call, options=inner, max_calls=options.max_calls, max_memory=options.max_memory)
