"""Flow runs whose processes are gone without a word, such as those on a lost node: Prefect shows them as running for ever."""

from datetime import datetime
from uuid import UUID


def report_crashed(flow_run_id: str, heard: datetime) -> str | None:
    """Give a flow run the state Crashed if it was running when it was last heard of, and still counts as running.

    Returns:
        Its name; None when it has ended, runs again since, or the server does not know it.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return None
        state = flow_run.state
        if state is None or state.type not in (StateType.RUNNING, StateType.CANCELLING) or state.timestamp > heard:
            return None
        message = f"The run has not been heard of since {heard:%H:%M:%S} UTC: its pod was killed, or its node is lost."
        client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    return flow_run.name
