"""Flow runs that the Prefect worker starts: the pipeline, and runs that are cancelled, retried, or lose what is under them."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import (
    GONE_SECONDS,
    NODE_DOWN,
    NODE_UP,
    START_SECONDS,
    STORAGE,
    FlowRun,
    Installation,
    away_from,
    closed_to_new_pods,
    lost_node,
    node_names,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]

PIPELINE_SECONDS = 1500
ROWS, ROWS_KEPT = 336_776, 327_346
"""Of the flights: all, and those with a target."""
COPIES = 6
LAPTOP_RMSE = 18.65
"""Of the pipeline on the flights with its defaults, on embedded Ray."""


def wait_until(run: FlowRun, file: str) -> None:
    """Return once a stage of the trial has told so."""

    def is_there() -> bool:
        said = run.installation.on_storage(f"ls {file} 2>/dev/null || true")
        assert said or run.state()["type"] not in ("COMPLETED", "FAILED", "CRASHED"), run.log()
        return bool(said)

    eventually(is_there, 300, f"{file} never came", every=2)


def count(run: FlowRun, file: str) -> int:
    return int(run.installation.on_storage(f"wc -l < {file}"))


def test_a_run_that_is_cancelled_in_the_ui_leaves_nothing(installation: Installation, trial_run: Any):
    run, folder = trial_run(600)
    wait_until(run, f"{folder}/second.begun")
    run.set_state(type="CANCELLING")
    assert run.wait_for_end() == "CANCELLED"
    installation.assert_no_ray()


def test_a_run_outlives_a_restart_of_the_prefect_server(installation: Installation, trial_run: Any):
    run, folder = trial_run(30)
    wait_until(run, f"{folder}/second.begun")
    installation.namespace.kubectl("rollout", "restart", "deployment/prefect-server")
    installation.namespace.kubectl("rollout", "status", "deployment/prefect-server", "--timeout=300s")
    assert run.wait_for_end() == "COMPLETED", run.log()
    assert run.task_runs() == {"first": "COMPLETED", "second": "COMPLETED"}
    installation.assert_no_ray()


def test_a_run_whose_pod_is_evicted_goes_on_by_itself_at_its_unfinished_stage(
    installation: Installation, trial_run: Any
):
    run, folder = trial_run(15)
    wait_until(run, f"{folder}/second.begun")
    installation.namespace.kubectl("delete", "pod", f"--selector=prefect.io/flow-run-id={run.id}", "--wait=false")
    eventually(lambda: run.state()["type"] == "COMPLETED", START_SECONDS, "it did not complete", every=3)
    assert (count(run, f"{folder}/first.begun"), count(run, f"{folder}/second.begun")) == (1, 2)
    installation.assert_no_ray()


def test_a_run_that_was_killed_is_retried_from_its_unfinished_stage(installation: Installation, trial_run: Any):
    run, folder = trial_run(15)
    wait_until(run, f"{folder}/second.begun")
    [pod] = installation.namespace.get("pods", f"--selector=prefect.io/flow-run-id={run.id}")["items"]
    # The first process, which no signal from within its pod ends, sees the others go, as when the kernel wants their memory.
    kill = "import os; [os.kill(int(pid), 9) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())]"
    installation.namespace.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", kill)
    assert run.wait_for_end() == "CRASHED"
    run.set_state(type="SCHEDULED", name="AwaitingRetry")
    eventually(lambda: run.state()["type"] == "RUNNING", 120, "it did not run again", every=2)
    assert run.wait_for_end() == "COMPLETED", run.log()
    assert count(run, f"{folder}/first.begun") == 1
    installation.assert_no_ray()


@pytest.mark.skipif(NODE_DOWN not in os.environ, reason=f"NODE LOSS IS NOT TESTED: set {NODE_DOWN} and {NODE_UP}")
def test_a_run_whose_node_is_lost_leaves_nothing_and_is_shown_as_crashed(installation: Installation, trial_run: Any):
    first, second, *others = node_names()
    with closed_to_new_pods([first, *others]):
        run, folder = trial_run(600, RAYWORKS_RAY_ADDRESS=away_from(installation, second))

        def place() -> str | None:
            pods = installation.namespace.get("pods", f"--selector=prefect.io/flow-run-id={run.id}")["items"]
            return pods[0]["spec"].get("nodeName") if pods else None

        assert eventually(place, 120, "it has no pod") == second
    wait_until(run, f"{folder}/second.begun")
    with lost_node(second):  # the installation's own sweep finds that its Lease has run out
        eventually(lambda: not installation.clusters(), GONE_SECONDS, "the cluster is left")
        assert run.wait_for_end(GONE_SECONDS) == "CRASHED"
    installation.assert_no_ray()


def test_a_run_whose_ray_cannot_come_up_fails_within_a_minute_and_its_message_tells_why(
    installation: Installation, image: str, trial_run: Any
):
    manifest = yaml.safe_load(installation.on_storage(f"cat {STORAGE}/code/raycluster.yaml"))
    manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] = {"disk": "absent"}
    nowhere = f"{STORAGE}/code/nowhere.yaml"
    installation.on_storage(f"cat > {nowhere}", stdin=yaml.safe_dump(manifest))
    head, _ = trial_run(1, RAYWORKS_IMAGE=f"{image.rpartition('/')[0]}/absent:1")
    worker, folder = trial_run(1, RAYWORKS_RAY_ADDRESS=nowhere)
    for run, words in (
        (head, ("-head-", "ImageNotFound", "absent:1", "imagePullSecrets")),
        (worker, ("-cpu-worker-", "UnmatchedAffinity", "didn't match Pod's node affinity/selector", "nodeSelector")),
    ):
        assert run.wait_for_end() == "FAILED", run.log()
        message = str(run.state()["message"])
        assert [word for word in words if word not in message] == [], message
        assert words[1] in run.log()
    lines = head.lines()
    created = next(when for when, line in lines if "Created RayCluster" in line)
    assert (datetime.fromisoformat(head.state()["timestamp"]) - created).total_seconds() < 60
    assert count(worker, f"{folder}/first.begun") == 1
    installation.assert_no_ray()


def kill_the_workers(run: FlowRun, stage: str, when: Callable[[], Any]) -> None:
    """Delete the pods of all Ray workers by force while ``stage`` runs and ``when`` is true."""

    def is_time() -> bool:
        states = run.task_runs()
        assert states.get(stage) != "COMPLETED", f"{stage} ended too soon"
        assert run.state()["type"] != "FAILED", run.log()
        return states.get(stage) == "RUNNING" and bool(when())

    eventually(is_time, 600, f"{stage} never worked on a worker", every=1)
    selector = "--selector=ray.io/node-type=worker"
    run.installation.namespace.kubectl("delete", "pod", selector, "--grace-period=0", "--force", "--wait=false")


def has_written(pattern: str, installation: Installation) -> bool:
    return bool(installation.on_storage(f"ls -d {STORAGE}/{pattern} 2>/dev/null || true").strip())


def test_processing_that_loses_its_workers_loses_no_row_and_doubles_none(installation: Installation):
    script = f"""
        set -e
        python -c "from rayworks.data import reading; reading.resolve('example://flights', '{STORAGE}')"
        mkdir {STORAGE}/many
        for copy in $(seq {COPIES}); do
          for file in {STORAGE}/examples/flights/*; do cp $file {STORAGE}/many/$copy-$(basename $file); done
        done
    """
    installation.in_a_pod("sh", "-c", script)
    run = installation.start("process/process", {"uri": f"{STORAGE}/many", "target": "arr_delay"}, env={})
    kill_the_workers(run, "process", lambda: has_written("datasets/many-*/train/part-*.parquet", installation))
    assert run.wait_for_end() == "COMPLETED", run.log()
    dataset = json.loads(installation.on_storage(f"cat {STORAGE}/datasets/many-*/dataset.json"))
    assert (dataset["rows_in"], dataset["rows_kept"]) == (COPIES * ROWS, COPIES * ROWS_KEPT)
    files = f"polars.scan_parquet('{STORAGE}/datasets/many-*/t*/*.parquet')"  # of the parts train and test
    written = installation.in_a_pod(
        "python", "-c", f"import polars; print({files}.select(polars.len()).collect().item())"
    )
    parts = {split["name"]: split["rows"] for split in dataset["splits"]}
    assert int(written) == parts["train"] + parts["test"]
    installation.assert_no_ray()


def test_the_pipeline_loses_its_workers_and_promotes_the_model_that_a_laptop_does(installation: Installation):
    # Long enough to be killed in the middle; the best round is an early one in any case.
    parameters = {"train": {"checkpoint_seconds": 1, "rounds": 600, "early_stopping_rounds": 600}}
    run = installation.start("pipeline/pipeline", parameters, env={})

    def is_working() -> bool:
        workers = installation.namespace.get("pods", "--selector=ray.io/node-type=worker")["items"]
        return any(status["ready"] for pod in workers for status in pod["status"].get("containerStatuses", ()))

    kill_the_workers(run, "tune", is_working)
    kill_the_workers(run, "train", lambda: has_written("training/*/ray/checkpoint_*", installation))
    assert run.wait_for_end(PIPELINE_SECONDS) == "COMPLETED", run.log()
    assert set(run.task_runs().values()) == {"COMPLETED"}
    model = json.loads(installation.on_storage(f"cat {STORAGE}/models/*/model_ref.json"))
    assert model["restarts"] >= 1
    assert [point["round"] for point in model["curve"]] == list(range(1, len(model["curve"]) + 1))
    evaluation = json.loads(installation.on_storage(f"cat {STORAGE}/evaluations/*.json"))
    assert evaluation["candidate"]["values"]["rmse"] == pytest.approx(LAPTOP_RMSE, rel=0.02)
    decision = json.loads(installation.on_storage(f"cat {STORAGE}/decisions/*.json"))
    assert decision["promoted"], decision["reason"]
    installation.assert_no_ray()
