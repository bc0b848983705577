"""The output of processes that a task has started on Ray (Data, Train, Tune, Serve, ...), in the flow run's log.

Task runs log to Prefect from their workers. Nested work has no Prefect around it: its lines come by the stream that Ray
prints on the driver's terminal. Ray streams them to drivers that are part of the cluster, not over ``ray://``.
"""

import logging
import re
from typing import Any
from uuid import UUID

from rayworks.runner import _private

TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HEADING = re.compile(r"Timeout \([\d:.]+\)!$")
HELD = re.compile(rf"{HEADING.pattern}|(Current t|T)hread 0x|  File \".*\", line \d+ in ")
"""A line of faulthandler, the first and any of them, see :func:`rayworks.call_stack.write_if_held`."""
HELD_TEXT = (
    "A call in C has not returned to Python, as one that holds the GIL (global interpreter lock). The calls of each "
    "thread, the innermost first:"
)
PREFECT_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ +\| ")
"""A line of Prefect's console log, which is sent to the API as well."""


class NestedOutput:
    """Sends the output of nested work to the log of one flow run, from :meth:`start` to :meth:`stop`."""

    def __init__(self, flow_run_id: UUID) -> None:
        self.task_names: set[str] = set()
        """Names of the Ray tasks that are Prefect task runs: their output is left out."""
        self._flow_run_id = flow_run_id
        # A subflow has one of its own, which ends earlier.
        self._handler = f"rayworks_flow_run_log_{flow_run_id}"

    def start(self) -> None:
        _private.add_worker_output_handler(self._handler, self._send)

    def stop(self) -> None:
        _private.remove_worker_output_handler(self._handler)

    def _send(self, batch: dict[str, Any]) -> None:
        for line in log_lines(batch, self.task_names):
            record = logging.makeLogRecord({"name": "rayworks.ray", "levelno": logging.INFO, "msg": line})
            record.flow_run_id = self._flow_run_id
            _private.send_log_record(record)


def stop_printing() -> None:
    """Stop Ray from printing the output of workers on this process's terminal."""
    _private.remove_worker_output_handler(_private.TERMINAL_HANDLER)


def log_lines(batch: dict[str, Any], task_names: set[str]) -> list[str]:
    """Return the lines of a batch that belong in the flow run's log, each with the name and process that it came from.

    What a worker cannot log itself, since a call holds the GIL, belongs there as well.

    Args:
        batch: A batch of Ray's log stream: ``lines``, ``pid``, and ``actor_name`` or ``task_name``.
        task_names: Ray tasks that log to Prefect themselves.
    """
    if batch.get("task_name") in task_names:
        batch = batch | {"lines": [line for line in batch["lines"] if HELD.match(line)]}
    batch = batch | {"lines": [HELD_TEXT if HEADING.match(line) else line for line in batch["lines"]]}
    if batch.get("pid") == "autoscaler":  # its regular status is for Ray's dashboard; its events are for the user
        marker = _private.AUTOSCALER_EVENT
        return [line.rpartition(marker)[2] for line in batch["lines"] if marker in line]
    if batch.get("pid") == "raylet":  # that workers were killed is for the user; what Ray's settings could do is not
        advice = "|".join(_private.MEMORY_ADVICE)
        batch = batch | {"lines": [re.split(advice, line, maxsplit=1)[0].rstrip() for line in batch["lines"]]}
    source = f"{batch.get('actor_name') or batch.get('task_name') or 'ray'} pid={batch.get('pid')}"
    # A progress bar rewrites its line: only its last state counts.
    lines = [TERMINAL_CODES.sub("", line).rstrip().rpartition("\r")[2] for line in batch["lines"]]
    return [f"({source}) {line}" for line in lines if line.strip() and not PREFECT_LINE.match(line)]
