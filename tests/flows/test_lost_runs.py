"""A flow run whose driver has disappeared is shown as crashed, and no other flow run is."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect import flow

from rayworks.prefect_api.lost_runs import is_given_up, report_crashed_flow_run, report_crashed_runs_of_pool


@flow
def nothing() -> None:
    """Never run."""


@pytest.mark.parametrize(
    ("state", "seconds", "is_lost"),
    [
        ("Running", 60, True),
        ("Cancelling", 60, True),
        ("Pending", 60, True),
        ("Running", -60, False),
        ("Completed", 60, False),
        ("Scheduled", 60, False),
    ],
    ids=["running", "being cancelled", "starting", "running again since", "ended", "waiting for a retry"],
)
def test_a_run_is_crashed_if_it_had_a_process_when_it_was_last_seen(
    prefect_api: str, state: str, seconds: float, is_lost: bool
):
    import prefect.states
    from prefect.client.orchestration import get_client

    last_seen = datetime.now(UTC) + timedelta(seconds=seconds)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(nothing, state=getattr(prefect.states, state)())
        assert report_crashed_flow_run(str(run.id), last_seen) == (run.name if is_lost else None)
        state_now = client.read_flow_run(run.id).state
    assert state_now is not None
    assert state_now.name == ("Crashed" if is_lost else state)
    assert not is_lost or "No sign of the run since" in str(state_now.message)


def test_a_run_that_the_server_does_not_know_is_not_reported(prefect_api: str):
    assert report_crashed_flow_run(str(uuid4()), datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("state", "seconds", "job", "is_lost"),
    [
        ("Running", 60, "namespace:ours", False),
        ("Running", 60, None, False),
        ("Running", 60, "namespace:another", True),
        ("AwaitingRetry", 60, "namespace:another", True),
        ("Crashed", 1, "namespace:ours", False),
        ("Crashed", 60, "namespace:ours", True),
        ("Completed", 1, "namespace:ours", True),
    ],
    ids=[
        "running",
        "its Job is not known yet",
        "running in another pod",
        "about to run in another pod",
        "crashed as its pod is evicted",
        "crashed before",
        "completed",
    ],
)
def test_a_pod_that_is_told_to_end_has_lost_a_run_that_crashed_before_or_runs_in_another(
    state: str, seconds: float, job: str | None, is_lost: bool
):
    import prefect.states
    from prefect.client.schemas.objects import FlowRun

    now = datetime.now(UTC)
    since = getattr(prefect.states, state)().model_copy(update={"timestamp": now - timedelta(seconds=seconds)})
    assert is_given_up(FlowRun(flow_id=uuid4(), state=since, infrastructure_pid=job), "ours", now) == is_lost


def test_active_runs_of_a_pool_have_crashed_when_its_only_worker_starts(prefect_api: str):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Pending, Running, Scheduled

    pool = f"example-{uuid4()}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.send_worker_heartbeat(pool, "one", heartbeat_interval_seconds=30)
        runs = [
            client.create_flow_run(nothing, state=state, work_pool_name=pool)
            for state in (Running(), Pending(), Scheduled())
        ]

        def states() -> list[str]:
            found = [client.read_flow_run(run.id).state for run in runs]
            return [state.name for state in found if state is not None]

        report_crashed_runs_of_pool(pool, "two")
        assert states() == ["Running", "Pending", "Scheduled"]
        report_crashed_runs_of_pool(pool, "one", before=datetime.now(UTC) - timedelta(minutes=1))
        assert states() == ["Running", "Pending", "Scheduled"]
        report_crashed_runs_of_pool(pool, "one", alive={str(runs[0].id)})
        assert states() == ["Running", "Crashed", "Scheduled"]
        report_crashed_runs_of_pool(pool, "one")
        assert states() == ["Crashed", "Crashed", "Scheduled"]
