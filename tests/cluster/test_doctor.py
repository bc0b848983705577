"""The deployment *doctor*, in a flow run's pod: an installation passes, and each thing that is wrong is reported."""

import pytest

from tests.cluster.installation import Installation

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


@pytest.mark.minutes(3)
def test_a_fresh_installation_passes_every_check(installation: Installation):
    run = installation.start("doctor/doctor", {"worker": True}, env={})
    assert run.wait_for_end() == "COMPLETED", run.log()
    results = [line for line in run.log().splitlines() if line.startswith(("pass: ", "warn: ", "fail: "))]
    assert [line.split(": ")[1] for line in results] == [
        "versions",
        "Prefect API",
        "storage",
        "MLflow",
        "manifest",
        "Kubernetes API",
        "permissions",
        "RayCluster dry run",
        "image",
        "Ray",
        "workers",
    ]
    assert all(line.startswith("pass: ") for line in results), results
    run.ray.assert_deleted()


def test_each_thing_that_is_wrong_is_reported_with_what_to_do(installation: Installation):
    wrong = {
        "RAYWORKS_STORAGE_URI": "/etc/absent",
        "RAYWORKS_MLFLOW_TRACKING_URI": "http://mlflow:1",
        "RAYWORKS_NAMESPACE": "default",
        "RAYWORKS_IMAGE": "absent:1",
    }
    run = installation.start("doctor/doctor", {"worker": False}, env=wrong)
    assert run.wait_for_end() == "FAILED"
    log = run.log()
    assert "fail: storage: " in log
    assert "/etc/absent" in log
    assert "fail: MLflow: MLflow does not respond: http://mlflow:1" in log
    assert "fail: permissions: not allowed: get rayclusters" in log
    assert "rbac.yaml" in log
    assert "fail: RayCluster dry run: " in log
    assert "warn: image: absent:1: no node reports that it has it" in log
    assert "4 of 9 checks failed" in str(run.state()["message"])
