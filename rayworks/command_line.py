"""A flow as a program: arguments from its parameters, progress while it runs, a summary at its end."""

import inspect
import logging
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from rayworks import storage
from rayworks.errors import RayworksError
from rayworks.settings import Settings

if TYPE_CHECKING:
    from prefect import Flow
    from rich.console import Console

POLL_SECONDS = 1.0
LAST_SECONDS = 3.0
"""How long the server may take, after the end, to show the last states."""
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


def run(flow: "Flow[..., Any]") -> NoReturn:
    """Run ``flow`` with the arguments of this process, and exit: 0 when it completed, 1 when not, 2 for bad arguments."""
    from rich.console import Console

    console = Console(highlight=False)
    try:
        parameters = arguments(flow, sys.argv[1:])
        sys.exit(_run(flow, parameters, console))
    except RayworksError as error:
        console.print(f"[red]✗[/] {_escaped(error)}")
        sys.exit(2)


def arguments(flow: "Flow[..., Any]", given: list[str]) -> dict[str, Any]:
    """The flow's parameters from command-line arguments: ``--uri``, ``--train.rounds``; ``--help`` explains each.

    Raises:
        ParameterError: A value is refused, with the parameter and the reason.
    """
    from pydantic import ConfigDict, ValidationError, create_model
    from pydantic_settings import CliApp, SettingsError

    from rayworks.errors import ParameterError

    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(flow.fn, eval_str=True).parameters.items()
    }
    config = ConfigDict(extra="forbid")
    model = create_model(flow.name, __doc__=inspect.getdoc(flow.fn), __config__=config, **fields)
    try:
        parsed = CliApp.run(model, cli_args=given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + ".".join(str(part) for part in first["loc"])
        raise ParameterError(
            "an argument is refused", where=name.replace("_", "-"), detail=first["msg"], remedy="See --help"
        ) from error
    except SettingsError as error:  # no JSON
        raise ParameterError("an argument cannot be read", detail=str(error), remedy="See --help") from error
    return {name: getattr(parsed, name) for name in fields}


def _run(flow: "Flow[..., Any]", parameters: dict[str, Any], console: "Console") -> int:
    from rayworks.prefect_api import server
    from rayworks.runner.task_runner import ray_running

    began = time.monotonic()
    _quiet_console_logs()
    _show_cluster(console)
    console.print(f"[bold]rayworks[/] {flow.name}  [dim]starting Prefect and Ray[/]")
    try:
        server = server.start()
        with ray_running():
            _quiet_worker_output()
            if server:
                server.wait()
            result = _run_watched(flow, parameters, console)
        _print_result(result, console, time.monotonic() - began)
        return 0
    except RayworksError as error:
        console.print(f"\n[red]✗[/] {_escaped(error)}")
    except KeyboardInterrupt:
        console.print("\n[yellow]✗[/] Cancelled. Finished stages are kept: run the same command to go on.")
        return INTERRUPTED
    except BaseException as error:  # whatever it is, the user sees a sentence and the log has the trace
        console.print(
            f"\n[red]✗[/] {_escaped(f'{type(error).__name__}: {error}'.splitlines()[0])} {_kept_trace(error)}"
        )
    return 1


def _run_watched(flow: "Flow[..., Any]", parameters: dict[str, Any], console: "Console") -> Any:
    """Run the flow as a flow run that is known from its start, so that it can be watched."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(flow, parameters=flow.serialize_parameters(parameters))
    with _Watching(console, flow_run.id):
        return run_flow(flow, flow_run=flow_run, parameters=parameters)


def _escaped(words: object) -> str:
    from rich.markup import escape

    return escape(str(words))


def _kept_trace(error: BaseException) -> str:
    """Keep the trace of an error that nobody foresaw, and say where."""
    text = "".join(traceback.format_exception(error))
    uri = storage.join(storage.absolute(Settings().storage_uri), "errors", f"{time.strftime('%Y%m%d-%H%M%S')}.txt")
    try:
        storage.write_bytes(uri, text.encode())
    except RayworksError:  # there is no place for it but here
        return f"\n{text}"
    return f"The trace is in {uri}."


def _quiet_console_logs() -> None:
    """Progress and the error are shown instead; the run's log, which the UI shows, has all."""
    from prefect.logging.configuration import setup_logging

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    setup_logging()


def _quiet_worker_output() -> None:
    """What workers print goes to the run's log as well; on the terminal it would tear the progress apart."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")


def _show_cluster(console: "Console") -> None:
    """What a cluster in Kubernetes waits for is told before there is a run whose log could tell it."""
    from rich.logging import RichHandler

    logger = logging.getLogger("rayworks.cluster")
    logger.addHandler(RichHandler(console=console, show_level=False, show_path=False, markup=False, highlighter=None))
    logger.setLevel(logging.INFO)


def _print_result(result: Any, console: "Console", seconds: float) -> None:
    from rich.table import Table

    lines = getattr(result, "summary", None)
    if lines is None and result is not None:
        lines = [(name, str(value)) for name, value in result]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines or ():
        table.add_row(name, _escaped(text))
    table.add_row("time", f"{seconds:.0f} s")
    console.print()
    console.print(table)


class _Watching:
    """Shows the task runs of a flow run as they go: their states and what they say, from Prefect's API, as the UI does."""

    def __init__(self, console: "Console", flow_run_id: Any) -> None:
        self._console, self._flow_run_id = console, flow_run_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rayworks-progress", daemon=True)

    def __enter__(self) -> "_Watching":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        from prefect.client.orchestration import get_client
        from rich.live import Live

        with get_client(sync_client=True) as client, Live(console=self._console, refresh_per_second=4) as live:
            deadline = None
            while True:
                last = self._ended.wait(POLL_SECONDS)
                try:
                    lines = _task_lines(client, self._flow_run_id)
                    live.update(_table(lines))
                except Exception as error:  # progress is no reason to fail; the flow itself tells if the API is gone
                    live.console.print(f"[dim]no progress: {_escaped(error)}[/]")
                    return
                if last:
                    deadline = deadline or time.monotonic() + LAST_SECONDS
                    if time.monotonic() > deadline or not any(state == "Running" for _, state, _, _ in lines):
                        return
                    time.sleep(0.1)


def _task_lines(client: Any, flow_run_id: Any) -> list[tuple[str, str, float, str]]:
    """Name, state, seconds and last words of each task run, in the order of their start."""
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

    here = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    said = {
        artifact.task_run_id: (float(artifact.data or 0), artifact.description or "")
        for artifact in client.read_artifacts(
            flow_run_filter=here, artifact_filter=ArtifactFilter.model_validate({"type": {"any_": ["progress"]}})
        )
    }
    runs = sorted(client.read_task_runs(flow_run_filter=here), key=lambda run: str(run.start_time or "~"))
    lines: list[tuple[str, str, float, str]] = []
    for run in runs:
        percent, words = said.get(run.id, (0.0, ""))
        message = run.state.message if run.state and run.state.name in ("Cached", "Failed", "Crashed") else words
        shown = f"{percent:.0f} % {words}" if run.state_name == "Running" and words else message or ""
        shown = shown.removeprefix("Task run encountered an exception ")
        lines.append((run.name.rpartition("-")[0], run.state_name or "", run.estimated_run_time.total_seconds(), shown))
    return lines


MARKS: dict[str, str] = {
    "Completed": "[green]✓[/]",
    "Cached": "[green]↺[/]",
    "Running": "[cyan]●[/]",
    "Failed": "[red]✗[/]",
    "Crashed": "[red]✗[/]",
}


def _table(lines: list[tuple[str, str, float, str]]) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, state, seconds, words in lines:
        table.add_row(MARKS.get(state, "[dim]·[/]"), name, f"[dim]{seconds:5.1f} s[/]", f"[dim]{_escaped(words)}[/]")
    return table
