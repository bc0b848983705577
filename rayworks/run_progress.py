"""A table of the task runs of a flow run, kept up to date in the terminal while the flow runs."""

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rayworks.errors import first_line
from rayworks.prefect_api import server

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import TaskRun
    from rich.console import Console
    from rich.table import Table

POLL_SECONDS = 1.0
LAST_STATES_SECONDS = 10.0
"""How long the server may take, after the flow run has ended, to show the last states of its task runs. It stores them
once a second."""
LAST_STATES_POLL_SECONDS = 0.1
MOST_LINES = 200
"""The server returns no more task runs at once (``PREFECT_SERVER_API_DEFAULT_LIMIT``)."""
ENDED_WITH_MESSAGE = ("Cached", "Failed", "Crashed")
"""States whose message says more than the last progress of the task run."""
MARKS: dict[str, str] = {
    "Completed": "[green]✓[/]",
    "Cached": "[green]↺[/]",
    "Running": "[cyan]●[/]",
    "Failed": "[red]✗[/]",
    "Crashed": "[red]✗[/]",
}


@dataclass(frozen=True)
class TaskLine:
    """A task run as a line of the table. ``message`` is its progress, or why it ended as it did."""

    name: str
    state: str
    has_ended: bool
    seconds: float
    message: str


class RunProgress:
    """Shows the task runs of a flow run while the context is entered: what Prefect's UI shows, from the same API."""

    def __init__(self, console: "Console", flow_run_id: "UUID") -> None:
        self._console, self._flow_run_id = console, flow_run_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="rayworks-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _show(self) -> None:
        from prefect.client.orchestration import get_client
        from rich.live import Live
        from rich.markup import escape

        with get_client(sync_client=True) as client, Live(console=self._console, refresh_per_second=4) as live:
            deadline = problem = None
            while True:
                has_ended = self._ended.wait(POLL_SECONDS)
                try:
                    lines = task_lines(client, self._flow_run_id)
                    live.update(table(lines))
                except Exception as error:  # the progress must not fail the flow, which reports a lost API itself
                    if first_line(error) != problem:
                        problem = first_line(error)
                        live.console.print(f"[dim]no progress: {escape(problem)}[/]")
                    if has_ended:
                        return
                    continue
                if has_ended:
                    deadline = deadline or time.monotonic() + LAST_STATES_SECONDS
                    if time.monotonic() > deadline or self._are_whole(lines):
                        return
                    time.sleep(LAST_STATES_POLL_SECONDS)

    def _are_whole(self, lines: list[TaskLine]) -> bool:
        """Return whether the server shows the end of each task run. A flow without Ray tells no number."""
        ended, expected = sum(line.has_ended for line in lines), server.expected(str(self._flow_run_id))
        return ended >= min(expected, MOST_LINES) and all(line.state != "Running" for line in lines)


def task_lines(client: "SyncPrefectClient", flow_run_id: "UUID") -> list[TaskLine]:
    """Return the task runs of a flow run, in the order in which they started."""
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

    of_flow_run = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    of_progress = ArtifactFilter.model_validate({"type": {"any_": ["progress"]}})
    artifacts: Any = client.read_artifacts(flow_run_filter=of_flow_run, artifact_filter=of_progress)
    progress = {artifact.task_run_id: (float(artifact.data or 0), artifact.description or "") for artifact in artifacts}
    runs = sorted(client.read_task_runs(flow_run_filter=of_flow_run), key=lambda run: str(run.start_time or "~"))
    return [_task_line(run, *progress.get(run.id, (0.0, ""))) for run in runs]


def _task_line(run: "TaskRun", percent: float, description: str) -> TaskLine:
    """Return the line of a task run, of which a progress artifact has ``percent`` and ``description``."""
    message = description
    if run.state and run.state.name in ENDED_WITH_MESSAGE:
        message = (run.state.message or "").removeprefix("Task run encountered an exception ").partition("\n")[0]
    elif run.state_name == "Running" and description:
        message = f"{percent:.0f} % {description}"
    seconds, has_ended = run.estimated_run_time.total_seconds(), run.state is not None and run.state.is_final()
    return TaskLine(run.name.rpartition("-")[0], run.state_name or "", has_ended, seconds, message)


def table(lines: list[TaskLine]) -> "Table":
    """Return the lines as a table: mark of the state, name, seconds, message."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for line in lines:
        mark = MARKS.get(line.state, "[dim]·[/]")
        grid.add_row(mark, line.name, f"[dim]{line.seconds:5.1f} s[/]", f"[dim]{escape(line.message)}[/]")
    return grid
