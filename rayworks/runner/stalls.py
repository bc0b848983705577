"""Says in the log of a run why it stands still: task runs that Ray has not started, and those that show nothing."""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from rayworks import call_stack
from rayworks.capacity import amounts, fits, may_come
from rayworks.runner import _private

if TYPE_CHECKING:
    from rayworks.runner.in_flight import SubmittedTaskRun
    from rayworks.runner.session import RaySession

WAITING_SECONDS = 60.0
"""After how long a task run is named that Ray has not started."""
CHECKS_PER_LIMIT = 4
OLDEST = 200
"""How many of the oldest task runs are looked at: as many as the Prefect API returns at once."""
NAMED = 5
"""How many task runs a message names."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Running:
    """The task run of a worker process."""

    flow_run_id: UUID
    task_run_id: UUID
    seconds: float
    """After how long without a message it is named."""
    started: float


class QuietTaskWatch:
    """Names, in its log, a task run that has shown nothing for a while, with the stack of its main thread.

    What a task run shows are its log lines; the progress of a stage is logged as well. A thread looks. Where a call in
    C keeps it from running, the stack is in the output of the worker, which the driver adds to the flow run's log.

    Args:
        last_message: Returns when the process has logged last, by ``time.monotonic``.
    """

    def __init__(self, last_message: Callable[[], float]) -> None:
        self._last_message = last_message
        self._running: _Running | None = None
        self._thread: threading.Thread | None = None
        self._main_thread = threading.get_ident()

    @contextlib.contextmanager
    def watch(self, flow_run_id: UUID | None, task_run_id: UUID, seconds: float) -> Generator[None]:
        """Watch the task run that this thread executes within the block."""
        self._main_thread = threading.get_ident()
        self._running = _Running(flow_run_id, task_run_id, seconds, time.monotonic()) if flow_run_id else None
        if flow_run_id is not None and self._thread is None:
            self._thread = threading.Thread(target=self._look_regularly, name="rayworks-quiet-tasks", daemon=True)
            self._thread.start()
        if self._running:
            call_stack.write_if_held(seconds)
        try:
            yield
        finally:
            self._running = None
            call_stack.write_no_more()

    def _look_regularly(self) -> None:
        named: _Running | None = None
        own_message = quiet_since = 0.0
        while True:
            running = self._running
            time.sleep(min(running.seconds / CHECKS_PER_LIMIT, 1.0) if running else 1.0)
            if running is None or running is not self._running:
                continue
            call_stack.write_if_held(running.seconds)
            if running is not self._running:  # it has ended in this moment
                call_stack.write_no_more()
                continue
            since = max(running.started, self._last_message())
            if named is running:
                if since > own_message:
                    self._say(running, logging.INFO, f"It goes on, after {since - quiet_since:.0f} s")
                    named = None
            elif time.monotonic() - since >= running.seconds:
                quiet_since, named = since, running
                text = f"It has shown nothing for {time.monotonic() - since:.0f} s. Its calls, the innermost last:"
                self._say(running, logging.WARNING, f"{text}\n{call_stack.of_thread(self._main_thread)}")
                own_message = self._last_message()

    def _say(self, running: _Running, level: int, text: str) -> None:
        fields = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": text}
        record = logging.makeLogRecord(fields)
        record.flow_run_id, record.task_run_id = running.flow_run_id, running.task_run_id
        _private.send_log_record(record)


@dataclass(frozen=True)
class Growth:
    """What is known of nodes that may be added for a task run."""

    may_come: bool = False
    """Whether one may be added that has what the task run requests."""
    why_none_comes: str = ""
    """Why none is there yet, where that is known."""


class WaitingTaskWatch:
    """Names, in the log of the flow run, task runs that Ray has not started, with what they request and what there is.

    Nothing is said while other task runs of the flow end: then they wait for their turn.

    Args:
        oldest: Returns the oldest task runs on Ray that no upstream result keeps waiting, and how many have ended.
        seconds: After how long they are named.
        session: Of the flow run, for what it knows of nodes that may be added.
    """

    def __init__(
        self, oldest: "Callable[[], tuple[list[SubmittedTaskRun], int]]", seconds: float, session: "RaySession"
    ) -> None:
        self._oldest, self._seconds, self._session = oldest, min(seconds, WAITING_SECONDS), session
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._named: dict[UUID, SubmittedTaskRun] = {}

    def start(self) -> None:
        """Look regularly from now on. Safe to call again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_regularly, name="rayworks-waiting-tasks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _look_regularly(self) -> None:
        ended_before, changed = -1, time.monotonic()
        while not self._stopping.wait(self._seconds / CHECKS_PER_LIMIT):
            try:
                task_runs, ended = self._oldest()
                now = time.monotonic()
                if ended != ended_before:
                    ended_before, changed = ended, now
                old = [task_run for task_run in task_runs if now - task_run.submitted >= self._seconds]
                if old and (now - changed >= self._seconds or self._named):
                    self._look(old, now)
            except Exception as error:  # neither the API nor Ray answers: they are asked again
                logger.debug("Task runs that wait could not be looked at: %s", error)

    def _look(self, old: "list[SubmittedTaskRun]", now: float) -> None:
        """Name those of ``old`` that have not begun, and those named before that have."""
        import ray
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            query = {"task_runs": {"id": {"any_": [str(task_run.id) for task_run in old]}}, "limit": OLDEST}
            shown = client.request("POST", "/task_runs/filter", json=query).json()
        names = {UUID(run["id"]): run["name"] for run in shown if run["state_type"] == "RUNNING"}
        begun = [task_run for task_run in self._named.values() if task_run.id in names]
        for task_run in begun:
            del self._named[task_run.id]
            logger.info("Ray has started %s, after %.0f s", names[task_run.id], now - task_run.submitted)
        waiting = [task_run for task_run in old if task_run.id not in names and task_run.id not in self._named]
        groups: defaultdict[tuple[str, tuple[tuple[str, float], ...]], list[SubmittedTaskRun]] = defaultdict(list)
        for task_run in waiting:
            groups[task_run.task.name, tuple(sorted(task_run.requests.items()))].append(task_run)
        api = cast(Any, ray)
        nodes = [node["Resources"] for node in api.nodes() if node["Alive"]] if groups else []
        available = api.available_resources() if groups else {}
        for (name, requests), members in groups.items():
            seconds = now - min(task_run.submitted for task_run in members)
            what = waiting_text(name, len(members), seconds)
            growth = Growth(
                may_come(dict(requests), self._session.nodes_to_come), self._session.why_none_comes(dict(requests))
            )
            logger.warning("%s. %s", what, reason_text(dict(requests), nodes, available, list(names.values()), growth))
        self._named |= {task_run.id: task_run for task_run in waiting}


def waiting_text(task: str, count: int, seconds: float) -> str:
    """Return that Ray has not started ``count`` runs of a task, the first of which has waited for ``seconds``."""
    runs = "a task run" if count == 1 else f"{count} task runs"
    return f"Ray has not started {runs} of {task} for {seconds:.0f} s"


def reason_text(
    requests: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
    available: Mapping[str, float],
    running: Sequence[str],
    growth: Growth = Growth(),
) -> str:
    """Return what a task run that waits requests, what there is, and who holds it.

    Args:
        requests: What it requests, by Ray's names of resources.
        nodes: The resources of each node.
        available: What is free, of all nodes together.
        running: Names of the task runs that run.
        growth: What is known of nodes that may be added.
    """
    if not requests:
        return "It requests no resources: a node may be starting a process for it"
    total = {name: sum(node.get(name, 0) for node in nodes) for name in requests}
    there = ", ".join(
        f"{amounts({name: total[name]})} ({amounts({name: available.get(name, 0)})} free)" for name in total
    )
    sentence = f"It requests {amounts(requests)}; there is {there}"
    if growth.why_none_comes:
        sentence += f". {growth.why_none_comes}"
    if not fits(requests, nodes):
        if growth.why_none_comes:
            return sentence
        if growth.may_come:
            return f"{sentence}. No node has as much yet: it waits for another node"
        return f"{sentence}. No node has as much: request less by @resources, or add nodes that have it"
    if running:
        more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
        return f"{sentence}. It may wait for {', '.join(running[:NAMED])}{more}, which run"
    return f"{sentence}. Others on this Ray cluster may hold the rest, or its process is starting"


def without_upstream(task_runs: "Iterable[SubmittedTaskRun]", most: int = OLDEST) -> "list[SubmittedTaskRun]":
    """Return the first task runs whose upstream results are there, at most ``most``."""
    import ray

    ready: list[SubmittedTaskRun] = []
    for task_run in task_runs:
        upstream = list(set(task_run.upstream))
        if not upstream or not ray.wait(upstream, num_returns=len(upstream), timeout=0, fetch_local=False)[1]:
            ready.append(task_run)
        if len(ready) == most:
            break
    return ready
