"""A driver's phases on a RayCluster, with a Kubernetes API of dictionaries: what they leave when they end or fail."""

import concurrent.futures
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.cluster import _private
from rayworks.cluster.existing import ExistingRay
from rayworks.cluster.kubernetes import acquisition, observer, raycluster, routes, upload, waiting
from rayworks.cluster.kubernetes.api import RefusedError
from rayworks.cluster.kubernetes.kinds import LEASE, RAYCLUSTER
from rayworks.cluster.kubernetes.observer import ClusterObserver
from rayworks.cluster.kubernetes.raycluster import KubeRayCluster
from rayworks.cluster.kubernetes.routes import Route
from rayworks.cluster.kubernetes.watch import Watch
from rayworks.errors import ClusterError, ClusterLostError
from rayworks.settings import Settings
from tests.certificates import use_tls
from tests.unit.recorded_api import Api
from tests.waiting import eventually

SHIPPED = Path(__file__).resolve().parents[2] / "deployments/kubernetes/base/raycluster.yaml"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in (acquisition, waiting):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("rayworks.cluster.kubernetes.watch.POLL_SECONDS", 0.01)
    monkeypatch.setattr(raycluster, "LOSS_SECONDS", 1)
    return Api()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        ray_address=str(SHIPPED), image="image:1", storage_uri=str(tmp_path / "storage"), ray_start_seconds=5
    )


@pytest.fixture
def shared(settings: Settings) -> Settings:
    return settings.model_copy(update={"ray_idle_seconds": 60.0})


def acquired(api: Any, settings: Settings) -> acquisition.Acquired:
    return acquisition.acquire(api, settings, manifest_uri=str(SHIPPED), flow_run_id="a-run")


# Create or share, and release


def test_a_driver_creates_a_cluster_and_a_lease_and_deletes_both(api: Any, settings: Settings):
    cluster = acquired(api, settings)
    assert api.names(RAYCLUSTER) == [cluster.name]
    (lease,) = api.names(LEASE)
    assert api.objects["Lease", lease]["metadata"]["ownerReferences"][0]["uid"] == cluster.uid
    cluster.release()
    assert api.objects == {}
    assert (Path(settings.storage_uri) / "clusters" / cluster.name / "events.txt").exists()


def test_a_refused_lease_leaves_no_cluster(api: Any, settings: Settings):
    api.refused["patch Lease"] = RefusedError(403, {}, "Lease", "change Lease ns/a")
    with pytest.raises(RefusedError):
        acquired(api, settings)
    assert api.objects == {}


def test_a_release_that_the_api_server_refuses_ends_the_renewals_and_says_what_to_do(
    api: Any, settings: Settings, caplog: pytest.LogCaptureFixture
):
    cluster = acquired(api, settings)
    api.refused["delete RayCluster"] = RefusedError(500, {}, "RayCluster", "delete")
    cluster.release()
    assert f"kubectl delete raycluster -n ns {cluster.name}" in caplog.text
    assert not cluster.lease._thread.is_alive()


def test_drivers_share_one_cluster_which_stays_when_they_release_it(api: Any, shared: Settings):
    first, second = acquired(api, shared), acquired(api, shared)
    assert first.uid == second.uid
    assert len(api.names(LEASE)) == 2
    first.release()
    second.release()
    assert api.names(RAYCLUSTER) == [first.name]
    assert api.names(LEASE) == []
    assert "rayworks.io/last-used" in api.objects["RayCluster", first.name]["metadata"]["annotations"]


def test_a_shared_cluster_of_another_image_is_refused(api: Any, shared: Settings):
    first = acquired(api, shared)
    with pytest.raises(ClusterError, match="another manifest or image"):
        acquired(api, shared.model_copy(update={"image": "image:2"}))
    first.release()


def test_a_shared_cluster_that_is_being_deleted_is_waited_for(
    api: Any, shared: Settings, monkeypatch: pytest.MonkeyPatch
):
    first = acquired(api, shared)
    first.release()
    old = api.objects["RayCluster", first.name]
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    monkeypatch.setattr(acquisition.time, "sleep", lambda _: api.objects.pop(("RayCluster", first.name)))
    second = acquired(api, shared)
    assert api.objects["RayCluster", second.name] is not old
    second.release()


# Wait


def observed(api: Any) -> ClusterObserver:
    name = api.recording["cluster"]["metadata"]["name"]
    api.objects["RayCluster", name] = api.recording["cluster"]
    return ClusterObserver(api, name, api.recording["cluster"]["metadata"]["uid"])


def test_the_wait_ends_with_the_ready_head(api: Any):
    api.shows("well")
    head = waiting.await_head(observed(api), seconds=5)
    assert head["metadata"]["labels"]["ray.io/node-type"] == "head"


def test_a_final_finding_about_the_head_ends_the_wait_at_once(api: Any):
    api.shows("head-image")
    with pytest.raises(ClusterError, match="The Ray head has an image that cannot be pulled"):
        waiting.await_head(observed(api), seconds=60)


def test_a_finding_about_a_worker_group_does_not_end_the_wait_for_the_head(api: Any):
    api.shows("worker-image")
    api.recording["pods"] = [
        pod for pod in api.recording["pods"] if pod["metadata"]["labels"]["ray.io/group"] == "small"
    ]
    with pytest.raises(ClusterError, match="A Ray worker of group small has an image"):
        waiting.await_head(observed(api), seconds=0.1)


def test_a_head_that_is_late_without_a_reason_is_reported_with_its_phase(api: Any):
    api.shows("well")
    api.recording |= {"pods": [], "events": []}
    with pytest.raises(ClusterError, match=r"was not ready within 0 s.*KubeRay has not created its pod yet"):
        waiting.await_head(observed(api), seconds=0.1)


def test_a_finding_is_logged_once(api: Any, caplog: pytest.LogCaptureFixture):
    api.shows("head-image")
    cluster = observed(api)
    for _ in range(2):
        cluster.report(cluster.snapshot())
    assert caplog.text.count("cannot be pulled") == 1


def test_a_driver_outside_forwards_ports_of_the_heads_pod_whatever_its_service_is_called(
    api: Any, monkeypatch: pytest.MonkeyPatch
):
    def forward(target: str, namespace: str, ports: tuple[int, ...]) -> Any:
        return f"{target} in {namespace}", {port: port + 1 for port in ports}

    api.shows("well")
    monkeypatch.setattr(routes.port_forward, "forward", forward)
    head = waiting.await_head(observed(api), seconds=5)
    route = routes.from_outside(head)
    assert (route.ray_address, route.dashboard) == ("ray://127.0.0.1:10002", "http://127.0.0.1:8266")
    assert route.process == f"pod/{head['metadata']['name']} in {head['metadata']['namespace']}"


# Watch


@pytest.fixture
def watch(api: Any) -> Any:
    """Starts a watch on a recorded cluster, and returns what becomes of it."""
    watches: list[Watch] = []

    def start(recording: str | None = None) -> "concurrent.futures.Future[ClusterError]":
        if recording:
            api.shows(recording)
        cluster = observed(api)
        head = observer.head_of(cluster.snapshot())
        assert head
        lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()
        watches.append(Watch(cluster, head, lost))
        watches[-1].start()
        return lost

    yield start
    for started in watches:
        started.stop()


def change_head(api: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the head's pod at once, as far as a watch can see."""
    pods = copy.deepcopy(api.recording["pods"])
    change(next(pod for pod in pods if pod["metadata"]["labels"]["ray.io/node-type"] == "head"))
    api.recording["pods"] = pods


def restart(head: dict[str, Any]) -> None:
    (container,) = head["status"]["containerStatuses"]
    container["restartCount"] += 1
    container["lastState"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (restart, "container ray-head ended: OOMKilled, exit code 137"),
        (lambda head: head["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"), "its pod is being deleted"),
        (lambda head: head["metadata"]["labels"].update({"ray.io/node-type": "worker"}), "its pod was deleted"),
        (lambda head: head["status"].update(phase="Failed", reason="Evicted", message="memory"), "Evicted: memory"),
    ],
    ids=["restarted", "being deleted", "deleted", "failed"],
)
def test_a_head_that_loses_its_memory_is_lost_with_the_reason(
    api: Any, watch: Any, change: Callable[[dict[str, Any]], None], reason: str
):
    lost = watch("well")
    change_head(api, change)
    error = lost.result(timeout=10)
    assert isinstance(error, ClusterLostError)
    assert error.what == "the Ray head is lost"
    assert reason in error.detail


def test_a_deleted_cluster_is_lost(api: Any, watch: Any):
    lost = watch("well")
    api.objects.clear()
    assert "the RayCluster was deleted" in lost.result(timeout=10).what


def test_an_unexpected_error_does_not_end_the_watch(api: Any, watch: Any, caplog: pytest.LogCaptureFixture):
    lost = watch("well")
    api.refused["get RayCluster"] = KeyError("reason")
    eventually(lambda: "The state of the cluster could not be examined" in caplog.text)
    assert not lost.done()
    del api.refused["get RayCluster"]
    change_head(api, restart)
    assert isinstance(lost.result(10), ClusterLostError)


def test_a_cluster_is_deleted_although_what_explains_its_failure_cannot_be_saved(
    api: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster = acquired(api, settings)
    monkeypatch.setattr(api, "pods", lambda **_: [{"metadata": {}}])
    cluster.release()
    assert api.objects == {}
    assert f"Not everything of RayCluster {cluster.name} could be saved" in caplog.text


def test_an_api_server_that_fails_loses_no_cluster(api: Any, watch: Any):
    lost = watch("well")
    api.refused["get RayCluster"] = RefusedError(0, {"message": "connection refused"}, "RayCluster", "read")
    requests = len(api.log)
    eventually(lambda: len(api.log) > requests + 3, 10)
    assert not lost.done()


def test_a_worker_group_that_can_get_no_pod_ends_the_wait_for_its_work(api: Any, watch: Any):
    error = watch("worker-image").result(timeout=10)
    assert not isinstance(error, ClusterLostError)
    assert "A Ray worker of group small has an image that cannot be pulled" in str(error)


def test_a_worker_group_that_can_get_no_pod_ends_no_run_while_another_worker_works(api: Any, watch: Any):
    api.shows("worker-image")
    worker = copy.deepcopy(api.recording["pods"][0])
    worker["metadata"]["labels"] |= {"ray.io/node-type": "worker", "ray.io/group": "large"}
    worker["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    api.recording["pods"] = [*api.recording["pods"], worker]
    lost = watch()
    requests = len(api.log)
    eventually(lambda: len(api.log) > requests + 3, 10)
    assert not lost.done()
    api.recording["pods"] = api.recording["pods"][:-1]  # it was idle
    assert "A Ray worker of group small" in str(lost.result(timeout=10))


# All phases


@pytest.fixture
def in_a_pod(api: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> KubeRayCluster:
    """The cluster for a driver in a pod, with a Ray and a node process that only log what happens to them."""

    class Node:
        def end(self) -> None:
            api.log.append("end node")

    def connect(self: ExistingRay, environment: Any, init_kwargs: Any) -> None:
        api.log.append(f"connect {self.address}")

    api.shows("well")
    monkeypatch.setattr(raycluster, "KubernetesApi", lambda namespace: api)
    monkeypatch.setattr(raycluster.api, "in_a_pod", lambda: True)
    monkeypatch.setattr(raycluster, "DriverNode", Node)
    monkeypatch.setattr(routes, "from_a_pod", lambda head, node: Route("10.0.0.1:6379", "http://10.0.0.1:1", node))
    monkeypatch.setattr(ExistingRay, "acquire", connect)
    monkeypatch.setattr(ExistingRay, "release", lambda self: api.log.append("disconnect"))
    return KubeRayCluster(settings)


def phases(api: Any) -> list[str]:
    return [entry for entry in api.log if entry.partition(" ")[0] not in ("get", "patch")]


def test_a_driver_in_a_pod_disconnects_before_it_deletes_its_cluster(api: Any, in_a_pod: KubeRayCluster):
    in_a_pod.acquire({}, {})
    assert "kubectl port-forward -n ns pod/ray-head-" in str(in_a_pod.dashboard())
    in_a_pod.release()
    in_a_pod.release()
    assert phases(api) == [
        *("create RayCluster", "create Lease", "connect 10.0.0.1:6379"),
        *("disconnect", "delete RayCluster", "delete Lease", "end node"),
    ]


def test_a_driver_sends_the_token_of_its_cluster_while_it_uses_it(
    api: Any, in_a_pod: KubeRayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    manifest = yaml.safe_load(SHIPPED.read_text())
    manifest["spec"]["authOptions"] = {"mode": "token"}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(manifest))
    in_a_pod.address, used = str(tmp_path / "cluster.yaml"), list[str | None]()
    monkeypatch.setattr(_private, "use_token", used.append)
    monkeypatch.setattr(api, "secret_value", lambda name, key: f"{key} of {name}", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    in_a_pod.acquire({}, {})
    (name,) = api.names(RAYCLUSTER)
    assert used == [f"auth_token of {name}"]
    in_a_pod.release()
    assert used[1:] == [None]


def test_a_driver_that_lacks_what_tls_wants_creates_no_cluster(
    api: Any, in_a_pod: KubeRayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    manifest = yaml.safe_load(SHIPPED.read_text())
    use_tls(manifest)
    in_a_pod.address = str(tmp_path / "cluster.yaml")
    Path(in_a_pod.address).write_text(yaml.safe_dump(manifest))
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with pytest.raises(ClusterError, match=r"Ray wants TLS: .*cluster\.yaml"):
        in_a_pod.acquire({}, {})
    assert api.log == ["end node"]


def test_a_lost_cluster_is_deleted_before_ray_disconnects(api: Any, in_a_pod: KubeRayCluster):
    in_a_pod.acquire({}, {})
    change_head(api, restart)
    in_a_pod.lost.result(timeout=10)
    in_a_pod.release()
    assert phases(api)[-4:] == ["delete RayCluster", "delete Lease", "disconnect", "end node"]


@pytest.mark.parametrize(("is_lost", "message"), [(False, "Ray cannot be reached"), (True, "The Ray head is lost")])
def test_a_driver_that_cannot_connect_leaves_nothing(
    api: Any, in_a_pod: KubeRayCluster, monkeypatch: pytest.MonkeyPatch, is_lost: bool, message: str
):
    def fail(*_: object) -> None:
        if is_lost:
            change_head(api, restart)
        raise ClusterError("Ray cannot be reached")

    monkeypatch.setattr(ExistingRay, "acquire", fail)
    with pytest.raises(ClusterLostError if is_lost else ClusterError, match=message):
        in_a_pod.acquire({}, {})
    assert api.objects == {}
    assert phases(api)[-1] == "end node"


def test_a_refused_cluster_is_explained(api: Any, in_a_pod: KubeRayCluster):
    body = {"message": 'rayclusters.ray.io is forbidden: User "a" cannot create resource "rayclusters"'}
    api.refused["create RayCluster"] = RefusedError(403, body, "RayCluster", "create RayCluster ns/ray")
    with pytest.raises(ClusterError, match=r"The account lacks a permission: create RayCluster ns/ray .*RoleBinding"):
        in_a_pod.acquire({}, {})


def test_the_workers_of_a_driver_outside_get_its_files_and_only_its_public_addresses(
    api: Any, in_a_pod: KubeRayCluster, monkeypatch: pytest.MonkeyPatch
):
    received: list[Any] = []
    monkeypatch.setattr(ExistingRay, "acquire", lambda self, *arguments: received.extend(arguments))
    monkeypatch.setattr(routes, "from_outside", lambda head: Route("10.0.0.1:6379", "", raycluster.DriverNode()))
    in_a_pod.is_elsewhere = True
    in_a_pod.acquire({"PREFECT_API_URL": "http://127.0.0.1:4200/api", "A": "b"}, {"runtime_env": {"pip": ["x"]}})
    in_a_pod.release()
    environment, init_kwargs = received
    assert environment == {"A": "b"}
    assert init_kwargs["runtime_env"] == {**upload.runtime_env(Path.cwd()), "pip": ["x"]}
