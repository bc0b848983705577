"""What processes print that a task started on Ray (remote functions, Data, Train, Tune, Serve), in the flow run's log.

The task runs themselves log to Prefect from their workers; only what has no Prefect around it comes this way, by the
stream that Ray prints on the driver's terminal. Ray streams it to drivers that are a part of the cluster, not over
``ray://``.
"""

import logging
import re
from typing import Any
from uuid import UUID

HANDLER = "rayworks_flow_run_log"
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PREFECT_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ +\| ")
"""A line of Prefect's console log: it is sent to the API as well."""

AUTOSCALER_EVENT = ":event_summary:"
"""How Ray marks what its autoscaler tells a user, such as that a task asks for more than any node has."""


class NestedOutput:
    """Sends the lines to one flow run, from ``start`` to ``stop``."""

    def __init__(self, flow_run_id: UUID) -> None:
        self._flow_run_id = flow_run_id
        self.task_names: set[str] = set()
        """Names of the Ray tasks that are Prefect task runs: their output is left out."""

    def start(self) -> None:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher

        global_worker_stdstream_dispatcher.add_handler(HANDLER, self._receive)

    def stop(self) -> None:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher

        global_worker_stdstream_dispatcher.remove_handler(HANDLER)

    def _receive(self, data: dict[str, Any]) -> None:
        from prefect.logging.handlers import APILogHandler, emit_api_log

        handler = APILogHandler()
        for message in messages(data, self.task_names):
            record = logging.makeLogRecord({"name": "rayworks.ray", "levelno": logging.INFO, "msg": message})
            record.flow_run_id = self._flow_run_id
            emit_api_log(handler.prepare(record))


def messages(data: dict[str, Any], task_names: set[str]) -> list[str]:
    """The lines worth a place in the flow run's log, each with the name and process it came from.

    Args:
        data: A batch of Ray's log stream: ``lines``, ``pid``, and ``actor_name`` or ``task_name``.
        task_names: Ray tasks that log to Prefect themselves.
    """
    if data.get("task_name") in task_names:
        return []
    if data.get("pid") == "autoscaler":  # its status every few seconds is for Ray's dashboard, its events are for us
        return [line.rpartition(AUTOSCALER_EVENT)[2] for line in data["lines"] if AUTOSCALER_EVENT in line]
    source = f"{data.get('actor_name') or data.get('task_name') or 'ray'} pid={data.get('pid')}"
    # A progress bar rewrites its line: its last state is the one that counts.
    lines = [TERMINAL_CODES.sub("", line).rstrip().rpartition("\r")[2] for line in data["lines"]]
    return [f"({source}) {line}" for line in lines if line.strip() and not PREFECT_LINE.match(line)]
