"""What a watch takes for the loss of a head, and which refusals a wait outlasts. No Kubernetes."""

import copy
from typing import Any

import pytest

from rayworks.cluster.kubernetes import observer, waiting, watch
from rayworks.cluster.kubernetes.api import RefusedError
from rayworks.cluster.kubernetes.finding import Snapshot
from rayworks.cluster.kubernetes.observer import ClusterObserver
from tests.unit.recorded_api import Api


def observed(recording: str) -> tuple[Api, ClusterObserver]:
    """A recorded cluster, and its observer."""
    api = Api()
    api.shows(recording)
    name, uid = (api.recording["cluster"]["metadata"][field] for field in ("name", "uid"))
    api.objects["RayCluster", name] = api.recording["cluster"]
    return api, ClusterObserver(api, name, uid)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unready head counts as lost at once, and nobody waits between two attempts."""
    monkeypatch.setattr(watch, "LOST_SECONDS", -1)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)


# A head with an autoscaler beside Ray


def head_of(snapshot: Snapshot) -> dict[str, Any]:
    head = observer.head_of(snapshot)
    assert head
    return head


def with_autoscaler(snapshot: Snapshot) -> Snapshot:
    """The same cluster with a container beside Ray, which Kubernetes names first in the status of the head."""
    changed = copy.deepcopy(snapshot)
    head = head_of(changed)
    head["spec"]["containers"].append({"name": "autoscaler"})
    status = {"name": "autoscaler", "ready": True, "restartCount": 0, "state": {"running": {}}}
    head["status"]["containerStatuses"].insert(0, status)
    return changed


def with_ended(snapshot: Snapshot, container: str, *, restarts: int) -> Snapshot:
    """The same cluster after a container of the head has ended and has been restarted that often."""
    changed = copy.deepcopy(snapshot)
    head = head_of(changed)
    status = next(status for status in head["status"]["containerStatuses"] if status["name"] == container)
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    status |= {"ready": False, "restartCount": restarts, "state": ended}
    for condition in head["status"]["conditions"]:
        if condition["type"] in ("Ready", "ContainersReady"):
            condition |= {"status": "False", "reason": "ContainersNotReady"}
    return changed


def loss(before: Snapshot, after: Snapshot, cluster: ClusterObserver) -> Any:
    return watch.Watch(cluster, head_of(before), None)._loss(after)  # type: ignore[arg-type]


@pytest.mark.parametrize("restarts", [0, 1], ids=["ended", "restarted"])
def test_a_container_beside_ray_that_ends_loses_no_head(restarts: int):
    _, cluster = observed("well")
    before = with_autoscaler(cluster.snapshot())
    assert loss(before, with_ended(before, "autoscaler", restarts=restarts), cluster) is None


@pytest.mark.parametrize("restarts", [0, 1], ids=["ended", "restarted"])
def test_the_end_of_ray_loses_a_head_and_is_the_reason_whatever_else_ended(restarts: int):
    _, cluster = observed("well")
    before = with_ended(with_autoscaler(cluster.snapshot()), "autoscaler", restarts=3)
    error = loss(before, with_ended(before, "ray-head", restarts=restarts), cluster)
    assert error.detail == "container ray-head ended: OOMKilled, exit code 137"


def test_a_head_whose_node_does_not_respond_is_lost_although_its_containers_count_as_ready():
    _, cluster = observed("node-lost")
    lost = cluster.snapshot()
    assert loss(lost, lost, cluster).what == "the Ray head is lost"


# Refused requests while the head starts


def refuse(api: Api, monkeypatch: pytest.MonkeyPatch, *statuses: int) -> None:
    """Refuse the next requests for the cluster."""
    rest, get = list(statuses), api.get

    def refusing(*arguments: Any) -> Any:
        if rest:
            raise RefusedError(rest.pop(0), {"message": "a refusal"}, "RayCluster", "read RayCluster ns/ray")
        return get(*arguments)

    monkeypatch.setattr(api, "get", refusing)


def test_the_wait_for_a_head_outlasts_an_api_server_that_is_away_fails_or_is_too_busy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    api, cluster = observed("well")
    refuse(api, monkeypatch, 0, 429, 500, 503)
    assert waiting.await_head(cluster, seconds=60)
    assert caplog.text.count("The Kubernetes API does not report the state of the cluster") == 1


def test_the_wait_for_a_head_ends_with_a_refusal_that_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    api, cluster = observed("well")
    refuse(api, monkeypatch, 403)
    with pytest.raises(RefusedError, match="403 a refusal"):
        waiting.await_head(cluster, seconds=60)


def test_the_wait_for_a_head_ends_with_the_refusal_when_its_time_has_passed(monkeypatch: pytest.MonkeyPatch):
    api, cluster = observed("well")
    refuse(api, monkeypatch, *[500] * 1000)
    with pytest.raises(RefusedError, match="500 a refusal"):
        waiting.await_head(cluster, seconds=0.1)
