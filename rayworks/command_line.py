"""A flow as a program: its parameters as arguments, its progress while it runs, a summary at the end."""

import contextlib
import inspect
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from rayworks import storage
from rayworks.errors import ParameterError, RayworksError, named, noted_tasks
from rayworks.ray_error import unwrapped
from rayworks.run_progress import RunProgress
from rayworks.settings import Settings

if TYPE_CHECKING:
    from prefect import Flow
    from rich.console import Console

FAILED = 1
BAD_ARGUMENTS = 2
INTERRUPTED = 130
"""Exit codes. The last is the shell's for Ctrl-C."""


def run(flow: "Flow[..., Any]") -> NoReturn:
    """Run ``flow`` with the arguments of this process, and exit.

    The exit code is 0 if the flow completed, 1 if it failed, 2 if an argument is invalid, and 130 after Ctrl-C.
    """
    from rich.console import Console

    console = Console(highlight=False)
    try:
        parameters = arguments(flow, sys.argv[1:])
    except RayworksError as error:
        console.print(f"[red]✗[/] {_escaped(error)}")
        sys.exit(BAD_ARGUMENTS)
    sys.exit(_run(flow, parameters, console))


def arguments(flow: "Flow[..., Any]", command_line: list[str]) -> dict[str, Any]:
    """Return the flow's parameters from ``--uri``, ``--train.rounds`` and so on. ``--help`` lists them and exits.

    Raises:
        ParameterError: An argument is invalid.
    """
    from pydantic import ConfigDict, ValidationError, create_model
    from pydantic_settings import CliApp, SettingsError

    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(flow.fn, eval_str=True).parameters.items()
    }
    config = ConfigDict(extra="forbid")
    model = create_model(flow.name, __doc__=inspect.getdoc(flow.fn), __config__=config, **fields)
    try:
        parsed = CliApp.run(model, cli_args=command_line)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise ParameterError(
            "an argument is invalid", where=option, detail=first["msg"], remedy="See --help"
        ) from error
    except SettingsError as error:  # it is not JSON
        raise ParameterError("an argument cannot be read", detail=str(error), remedy="See --help") from error
    return {name: getattr(parsed, name) for name in fields}


def _run(flow: "Flow[..., Any]", parameters: dict[str, Any], console: "Console") -> int:
    """Start Prefect, and Ray if the flow uses it, run the flow, print its result or why it failed.

    Returns:
        The exit code.
    """
    from rayworks.prefect_api import address, run_log, server
    from rayworks.runner import nested_output
    from rayworks.runner.session import ray_running
    from rayworks.runner.task_runner import RayTaskRunner

    started = time.monotonic()
    uses_ray = isinstance(flow.task_runner, RayTaskRunner)
    run_log.stop_printing()  # the terminal shows progress and errors instead
    _show_cluster_log(console)
    console.print(f"[bold]rayworks[/] {flow.name}  [dim]starting Prefect{' and Ray' if uses_ray else ''}[/]")
    try:
        embedded_server = server.start()  # it migrates its database while Ray starts
        with contextlib.ExitStack() as stack:
            if uses_ray:
                stack.enter_context(ray_running())
                nested_output.stop_printing()  # it would break the progress table; the flow run's log has it as well
            if embedded_server:
                embedded_server.wait()
            with address.refusal_explained():
                result = _run_with_progress(flow, parameters, console)
        _print_summary(result, console, time.monotonic() - started)
        return 0
    except RayworksError as error:
        console.print(f"\n[red]✗[/] {_escaped(unwrapped(error))}")
    except KeyboardInterrupt:
        console.print("\n[yellow]✗[/] Cancelled. Finished stages are stored: run the same command to resume.")
        return INTERRUPTED
    except BaseException as error:  # nobody foresaw it: the user gets a sentence, and the traceback is stored
        console.print(f"\n[red]✗[/] {_escaped(_unforeseen(error, flow.name, parameters))}")
    return FAILED


def _run_with_progress(flow: "Flow[..., Any]", parameters: dict[str, Any], console: "Console") -> Any:
    """Create the flow run before it starts, so that its id is known, and show its progress while it runs."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(flow, parameters=flow.serialize_parameters(parameters))
    with RunProgress(console, flow_run.id):
        return run_flow(flow, flow_run=flow_run, parameters=parameters)


def _unforeseen(error: BaseException, flow: str, parameters: dict[str, Any]) -> str:
    """Return a sentence about an error that nobody foresaw: what failed, on which input, and where the traceback is."""
    tasks = f" in {', '.join(noted_tasks(error))}" if noted_tasks(error) else ""
    first = next((f" ({name} {value})" for name, value in parameters.items()), "")
    return f"The flow {flow} failed{tasks}{first}: {named(unwrapped(error))}. {_store_traceback(error)}"


def _escaped(text: object) -> str:
    from rich.markup import escape

    return escape(str(text))


def _store_traceback(error: BaseException) -> str:
    """Store the traceback of an unexpected error. Return a sentence with its URI, or the traceback if that fails."""
    text = "".join(traceback.format_exception(error))
    try:
        folder = storage.join(storage.absolute(Settings().storage_uri), "errors")
        uri = storage.join(folder, f"{time.strftime('%Y%m%d-%H%M%S')}.txt")
        storage.write_bytes(uri, text.encode())
    except (RayworksError, ValueError):  # the latter is of invalid settings
        return f"\n{text}"
    return f"The traceback is stored in {uri}."


def _show_cluster_log(console: "Console") -> None:
    """Print what a cluster waits for: it starts before there is a flow run whose log could contain that."""
    from rich.logging import RichHandler

    logger = logging.getLogger("rayworks.cluster")
    logger.addHandler(RichHandler(console=console, show_level=False, show_path=False, markup=False, highlighter=None))
    logger.setLevel(logging.INFO)


def _print_summary(result: Any, console: "Console", seconds: float) -> None:
    """Print the ``summary`` of a result that has one, the entries of any other, and how long it took."""
    from rich.table import Table

    lines = getattr(result, "summary", None)
    if lines is None:  # the fields of a record, or a list
        lines = [entry if isinstance(entry, tuple) else ("", entry) for entry in result or ()]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines or ():
        table.add_row(name, _escaped(text))
    table.add_row("time", f"{seconds:.0f} s")
    console.print()
    console.print(table)
