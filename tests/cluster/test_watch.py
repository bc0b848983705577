"""A schedule watches a folder of the installation's storage, and retrains on Ray when a file arrives."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.installation import STORAGE, Installation
from tests.cluster.kubernetes_access import START_SECONDS
from tests.cluster.runs import FINAL_STATES, FlowRun
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(2400), pytest.mark.minutes(6)]

LAKE, LEDGER = f"{STORAGE}/lake", f"{STORAGE}/arrivals/lake"
INTERVAL_SECONDS = 60


def arrive(installation: Installation, name: str) -> None:
    rows = "".join(f"{number},{3 * number + 1}\n" for number in range(300))
    installation.on_storage(
        f"mkdir -p {LAKE} && cat > {LAKE}/_new && mv {LAKE}/_new {LAKE}/{name}", "n,amount\n" + rows
    )


def flow_runs(installation: Installation, flow: str) -> list[dict[str, Any]]:
    return installation.prefect("POST", "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})


def test_a_file_that_arrives_under_a_schedule_of_two_watchers_is_learned_once_on_ray(installation: Installation):
    arrive(installation, "2024.csv")
    manifest = f"watch-{datetime.now(UTC):%H%M%S}"
    installation.write_manifest(manifest)
    retrain = installation.prefect("GET", "/deployments/name/retrain/retrain")["id"]
    on_ray = {"env": {"RAYWORKS_RAY_ADDRESS": installation.manifest(manifest)}}
    installation.prefect("PATCH", f"/deployments/{retrain}", {"job_variables": on_ray})
    watch = installation.prefect("GET", "/deployments/name/watch/watch")["id"]
    quick = {"tune": {"trials": 0}, "train": {"rounds": 5}, "serve_check": {"rows": 5}}
    parameters = {"watch": "lake", "source": LAKE, "target": "amount", "options": {"settle_seconds": 0}, **quick}
    every = {"interval": INTERVAL_SECONDS, "anchor_date": datetime.now(UTC).isoformat()}  # both at the same moments
    two = [{"slug": slug, "active": True, "schedule": every, "parameters": parameters} for slug in ("first", "second")]
    schedules = installation.prefect("POST", f"/deployments/{watch}/schedules", two)

    def looks() -> str:
        return "\n".join(FlowRun(installation, run["id"]).log() for run in flow_runs(installation, "watch"))

    try:
        eventually(lambda: installation.exists(f"{LEDGER}/000000.*"), START_SECONDS, looks, every=1)
        arrive(installation, "2025.csv")
        arrived = datetime.now(UTC)

        def both_looked() -> bool:
            completed = [run for run in flow_runs(installation, "watch") if run["state_type"] == "COMPLETED"]
            return sum(datetime.fromisoformat(run["start_time"]) > arrived for run in completed) >= 2

        eventually(both_looked, START_SECONDS, looks, every=1)
    finally:
        for schedule in schedules:
            installation.prefect("DELETE", f"/deployments/{watch}/schedules/{schedule['id']}")
    [started] = flow_runs(installation, "retrain")
    assert (started["name"], started["parameters"]["arrived"]) == ("lake-batch-1", [f"{LAKE}/2025.csv"])
    run = FlowRun(installation, started["id"], cluster_name=manifest)
    assert run.wait_for_end(1200) == "COMPLETED", run.log()
    assert len(flow_runs(installation, "retrain")) == 1
    result = json.loads(installation.on_storage(f"cat {LEDGER}/000001.result.json"))
    assert result["state"] == "done", result
    assert not installation.exists(f"{LEDGER}/000002.*")
    ended = [run["state"] for run in flow_runs(installation, "watch") if run["state_type"] in FINAL_STATES]
    for state in ended:  # a look that waited for a busy cluster until the next one began is cancelled by it
        assert state["type"] == "COMPLETED" or "did what this one was to do" in str(state["message"]), (state, looks())
    run.ray.assert_deleted()
