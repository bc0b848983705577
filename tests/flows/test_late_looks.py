"""A look of a watch cancels those that should have begun before it, and no others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from rayworks.prefect_api import looks

pytestmark = pytest.mark.usefixtures("prefect_api")


@flow
def looking(watch: str) -> None:
    looks.cancel_late(watch)


@pytest.fixture
def scheduled(client: SyncPrefectClient) -> Callable[[str, float], FlowRun]:
    """Schedule a look of a watch in so many minutes."""
    deployment = client.create_deployment(client.create_flow(looking), "looks")

    def schedule(watch: str, minutes: float) -> FlowRun:
        state: Any = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(minutes=minutes))
        return client.create_flow_run_from_deployment(deployment, parameters={"watch": watch}, state=state)

    return schedule


def test_a_look_cancels_the_late_ones_of_its_watch_alone(
    client: SyncPrefectClient, scheduled: Callable[[str, float], FlowRun]
):
    late, other, future = [scheduled("a", -3), scheduled("a", -2)], scheduled("b", -3), scheduled("a", 5)
    run_flow(looking, flow_run=scheduled("a", -1), parameters={"watch": "a"})
    states = [client.read_flow_run(run.id).state for run in (*late, other, future)]
    assert [state.type.value for state in states if state] == ["CANCELLED", "CANCELLED", "SCHEDULED", "SCHEDULED"]
    assert "did what this one was to do" in str(states[0])
    looking("a")  # without a deployment, as on the command line


def test_a_late_look_that_is_deleted_meanwhile_does_not_fail_the_one_that_runs(
    client: SyncPrefectClient, scheduled: Callable[[str, float], FlowRun], monkeypatch: pytest.MonkeyPatch
):
    late = scheduled("c", -2)
    list_runs = SyncPrefectClient.read_flow_runs

    def then_delete(of: SyncPrefectClient, **arguments: Any) -> list[FlowRun]:
        found = list_runs(of, **arguments)
        client.delete_flow_run(late.id)
        return found

    monkeypatch.setattr(SyncPrefectClient, "read_flow_runs", then_delete)
    run_flow(looking, flow_run=scheduled("c", -1), parameters={"watch": "c"})
