"""What is logged of a RayCluster that does not run. No Kubernetes."""

import copy

import pytest

from rayworks.cluster.kubernetes.observer import ClusterObserver
from tests.unit.recorded_api import Api


def test_what_holds_for_several_pods_of_a_group_is_logged_in_one_line(
    caplog: pytest.LogCaptureFixture,
):
    api = Api()
    api.shows("worker-too-large")
    recorded = api.recording["cluster"]
    api.objects["RayCluster", "ray"] = recorded
    worker = next(pod for pod in api.recording["pods"] if pod["metadata"]["labels"]["ray.io/node-type"] == "worker")
    for number in range(2):
        other = copy.deepcopy(worker)
        other["metadata"] |= {"name": f"other-{number}", "uid": f"other-{number}"}
        api.recording["pods"].append(other)
    observer = ClusterObserver(api, "ray", recorded["metadata"]["uid"])  # type: ignore[arg-type]
    observer.report(observer.snapshot())
    assert caplog.text.count("requests more than any node has") == 1
    assert "So it is with 2 more." in caplog.text
