"""The pipeline's stages on the RayCluster as it is shipped, whose workers are killed while they work."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.installation import STORAGE, Installation
from tests.cluster.runs import FlowRun
from tests.waiting import eventually

# They compute, where other tests mostly wait.
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(2400), pytest.mark.last]

PIPELINE_SECONDS = 1500
ROWS, ROWS_WITH_TARGET = 336_776, 327_346
"""Of the example flights."""
COPIES = 6
LAPTOP_RMSE = 17.08
"""Of the pipeline on the flights with the parameters below, on embedded Ray."""


def kill_the_workers(run: FlowRun, stage: str, is_due: Callable[[], Any]) -> None:
    """Delete the pods of all Ray workers by force while ``stage`` runs and ``is_due`` returns true."""

    def is_time() -> bool:
        states = run.task_runs()
        assert states.get(stage) != "COMPLETED", f"{stage} ended too soon"
        assert run.state()["type"] != "FAILED", run.log()
        return states.get(stage) == "RUNNING" and bool(is_due())

    eventually(is_time, PIPELINE_SECONDS, f"{stage} never worked on a worker", every=0.5)
    run.ray.kill_pods("worker")


@pytest.mark.minutes(6)
def test_processing_that_loses_its_workers_loses_no_row_and_duplicates_none(installation: Installation):
    script = f"""
        set -e
        python -c "from rayworks.data import reading; reading.resolve('example://flights', '{STORAGE}')"
        mkdir {STORAGE}/many
        for copy in $(seq {COPIES}); do
          for file in {STORAGE}/examples/flights/*; do cp $file {STORAGE}/many/$copy-$(basename $file); done
        done
    """
    installation.run_in_a_pod("sh", "-c", script)
    run = installation.start("process/process", {"uri": f"{STORAGE}/many", "target": "arr_delay"}, env={})
    kill_the_workers(run, "process", lambda: installation.exists(f"{STORAGE}/datasets/many-*/train/part-*.parquet"))
    assert run.wait_for_end(PIPELINE_SECONDS) == "COMPLETED", run.log()
    assert "group gpu" not in run.log(), "work without GPUs requests no GPU node, however much of it waits"
    dataset = json.loads(installation.on_storage(f"cat {STORAGE}/datasets/many-*/dataset.json"))
    assert (dataset["rows_in"], dataset["rows_kept"]) == (COPIES * ROWS, COPIES * ROWS_WITH_TARGET)
    files = f"polars.scan_parquet('{STORAGE}/datasets/many-*/t*/*.parquet')"  # of the parts train and test
    program = f"import polars; print({files}.select(polars.len()).collect().item())"
    written = installation.run_in_a_pod("python", "-c", program)
    parts = {split["name"]: split["rows"] for split in dataset["splits"]}
    assert int(written) == parts["train"] + parts["test"]
    run.ray.assert_deleted()


@pytest.mark.minutes(10)
def test_the_pipeline_loses_its_workers_and_promotes_the_model_that_a_laptop_does(installation: Installation):
    # Long enough to be killed in the middle; the best round is an early one in any case.
    parameters = {"train": {"checkpoint_seconds": 1, "rounds": 150, "early_stopping_rounds": 150}}
    run = installation.start("pipeline/pipeline", parameters, env={})

    def has_ready_worker() -> bool:
        statuses = [status for pod in run.ray.pods("worker") for status in pod["status"].get("containerStatuses", ())]
        return any(status["ready"] for status in statuses)

    kill_the_workers(run, "tune", has_ready_worker)
    kill_the_workers(run, "train", lambda: installation.exists(f"{STORAGE}/training/flights-*/checkpoint.zip"))
    assert run.wait_for_end(PIPELINE_SECONDS) == "COMPLETED", run.log()
    assert "group gpu" not in run.log(), "work without GPUs requests no GPU node, however much of it waits"
    # The server stores the states of task runs a moment later than that of their flow run.
    eventually(lambda: set(run.task_runs().values()) == {"COMPLETED"}, 60, lambda: str(run.task_runs()), every=1)
    model = json.loads(installation.on_storage(f"cat {STORAGE}/models/flights-*/model_ref.json"))
    assert model["restarts"] >= 1
    assert [point["round"] for point in model["curve"]] == list(range(1, len(model["curve"]) + 1))
    evaluation = json.loads(installation.on_storage(f"cat {STORAGE}/evaluations/flights-*.json"))
    # A resumed loop draws other columns than one that was not interrupted.
    assert evaluation["candidate"]["values"]["rmse"] == pytest.approx(LAPTOP_RMSE, rel=0.03)
    decision = json.loads(installation.on_storage(f"cat {STORAGE}/decisions/flights-*.json"))
    assert decision["promoted"], decision["reason"]
    run.ray.assert_deleted()
