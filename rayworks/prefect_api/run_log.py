"""Sends the log records of rayworks to the log of the Prefect run that they belong to."""

import logging
import os
from uuid import UUID

from rayworks.prefect_api import _private


class RunLogFilter(logging.Filter):
    """Assigns log records to a flow run.

    A record that is logged within a flow or task run belongs to that run. Any other record, such as one of a thread
    that watches a cluster, belongs to the flow run ``flow_run_id``; without one it is not sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flow_run_id: UUID | str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        from prefect.context import FlowRunContext, TaskRunContext

        if hasattr(record, "flow_run_id") or FlowRunContext.get() or TaskRunContext.get():
            return True
        record.flow_run_id = self.flow_run_id
        return self.flow_run_id is not None


def attach_run_log(flow_run_id: UUID | str | None = None) -> None:
    """Send what rayworks logs (``logging.getLogger(__name__)``) to the Prefect API. Safe to call again.

    Args:
        flow_run_id: The flow run that gets the records of threads outside of any run. By default the last one named.
    """
    logger = logging.getLogger("rayworks")
    run_filter = _attached_filter(logger) or _attach_filter(logger)
    run_filter.flow_run_id = flow_run_id or run_filter.flow_run_id


def _attached_filter(logger: logging.Logger) -> RunLogFilter | None:
    filters = (item for handler in logger.handlers for item in handler.filters)
    return next((item for item in filters if isinstance(item, RunLogFilter)), None)


def _attach_filter(logger: logging.Logger) -> RunLogFilter:
    from prefect.logging.handlers import APILogHandler

    run_filter, handler = RunLogFilter(), APILogHandler()
    handler.addFilter(run_filter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return run_filter


def stop_printing() -> None:
    """Stop Prefect from printing the logs of runs on this process's terminal. The API gets them as before.

    ``PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL`` in the environment takes precedence.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    _private.configure_logging_again()
