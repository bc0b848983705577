"""What a worker gets to know of a flow run: its context, and where the parameters of a task run came from."""

from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from rayworks.prefect_api import server
from rayworks.prefect_api.address import configured_api_url
from rayworks.runner import _private

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput


def serialized_flow_run(*, is_elsewhere: bool) -> dict[str, Any]:
    """Return the context of the current flow run, with the API that its task runs are to use.

    Args:
        is_elsewhere: Whether the workers run where this machine's addresses do not exist.
    """
    context = _private.serialized_flow_run_context()
    if context["settings_context"]:
        settings = context["settings_context"]["settings"]
        api, api_url = settings.setdefault("api", {}), configured_api_url()
        if is_elsewhere:
            api.pop("url", None)  # the workers' environment names the API that they can reach
        elif api_url:
            api["url"] = api_url
        if server.is_embedded(api_url):
            settings["ui_url"] = ""  # the server ends with this process, so a link to it would be of no use
    return context


def input_task_runs(parameters: dict[str, Any]) -> "dict[str, set[RunInput]]":
    """Return the runs that the parameters of a task run came from. Only this process knows them: workers get copies."""
    flow_run = FlowRunContext.get()
    # Results and assets are what a parameter can have come from. A flow run with neither need not be searched.
    if not flow_run or not (flow_run.run_results or flow_run.task_run_assets):
        return {}
    return _private.input_task_runs(parameters)
