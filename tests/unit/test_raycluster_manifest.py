"""What a run adds to a RayCluster manifest, and which manifests are refused before any request to Kubernetes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.capacity import NOT_ON_GPUS
from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.ray_command import WITHOUT_CLIENT_SERVER
from rayworks.cluster.kubernetes.raycluster_manifest import Needs
from rayworks.errors import ParameterError

SHIPPED = Path(__file__).resolve().parents[2] / "deployments/kubernetes/base/raycluster.yaml"


@pytest.fixture
def manifest() -> dict[str, Any]:
    return raycluster_manifest.read(str(SHIPPED))


def written(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest after it was written to a file and read."""
    (folder / "cluster.yaml").write_text(yaml.safe_dump(manifest))
    return raycluster_manifest.read(str(folder / "cluster.yaml"))


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of the head."""
    return manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"]


def use_tls(*groups: dict[str, Any]) -> None:
    for group in groups:
        group["template"]["spec"]["containers"][0]["env"] = [{"name": "RAY_USE_TLS", "value": "1"}]


def test_the_groups_that_have_gpus_are_those_that_other_work_avoids(manifest: dict[str, Any]):
    ((label, avoided),) = NOT_ON_GPUS.items()
    for group in manifest["spec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        has_gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert (f"!{group.get('labels', {}).get(label)}" == avoided) == has_gpus


def test_the_manifest_is_used_unchanged(manifest: dict[str, Any]):
    before = copy.deepcopy(manifest)
    cluster = raycluster_manifest.for_run(manifest, Needs("one", "apart", image="registry/image:1", flow_run_id="f"))
    assert manifest == before
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0].pop("image") == "registry/image:1"
        assert group["template"].pop("metadata")["labels"] == {"rayworks.io/flow-run-id": "f"}
    assert cluster["spec"] == before["spec"]


def test_a_head_serves_no_drivers_outside_where_the_only_driver_joins_its_cluster(manifest: dict[str, Any]):
    def variables(**needs: Any) -> list[str]:
        cluster = raycluster_manifest.for_run(manifest, Needs("one", "apart", **needs))
        return [variable["name"] for variable in containers(cluster)[0].get("env", ())]

    assert variables(has_driver_in_a_pod=True) == [WITHOUT_CLIENT_SERVER]
    assert variables() == variables(has_driver_in_a_pod=True, idle_seconds=60) == []
    manifest["spec"]["headGroupSpec"]["rayStartParams"]["ray-client-server-port"] = "10001"
    assert variables(has_driver_in_a_pod=True) == []


@pytest.mark.parametrize(
    ("parameter", "has_dashboard"),
    [({}, True), *(({"include-dashboard": it}, it == "true") for it in ("true", "False"))],
)
def test_a_head_has_a_dashboard_unless_the_manifest_says_otherwise(
    manifest: dict[str, Any], parameter: dict[str, str], has_dashboard: bool, tmp_path: Path
):
    manifest["spec"]["headGroupSpec"]["rayStartParams"].update(parameter)
    assert raycluster_manifest.has_dashboard(written(manifest, tmp_path)) == has_dashboard


def test_an_image_in_the_manifest_is_kept(manifest: dict[str, Any]):
    head = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["image"] = "manifest:1"
    cluster = raycluster_manifest.for_run(manifest, Needs("one", "apart", image="run:1"))
    assert cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "manifest:1"
    assert cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["image"] == "run:1"


def test_a_cluster_for_one_run_is_owned_by_the_run_s_job(manifest: dict[str, Any]):
    cluster = raycluster_manifest.for_run(manifest, Needs("one", "apart", flow_run_id="f", job=("job", "uid")))
    metadata = cluster["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("one", "apart")
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "rayworks", "rayworks.io/flow-run-id": "f"}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "uid", "blockOwnerDeletion": False}
    assert metadata["ownerReferences"] == [owner]


def test_a_shared_cluster_has_no_owner_and_says_how_long_it_may_idle(manifest: dict[str, Any]):
    cluster = raycluster_manifest.for_run(
        manifest, Needs("one", "apart", flow_run_id="f", job=("job", "uid"), idle_seconds=600)
    )
    assert "ownerReferences" not in cluster["metadata"]
    assert cluster["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "rayworks"}
    assert cluster["metadata"]["annotations"]["rayworks.io/idle-seconds"] == "600"


def test_a_shared_cluster_has_a_digest_of_manifest_and_image(manifest: dict[str, Any]):
    other = copy.deepcopy(manifest)
    other["spec"]["workerGroupSpecs"][0]["maxReplicas"] += 1
    digests = {
        raycluster_manifest.digest(manifest, "a"),
        raycluster_manifest.digest(manifest, "b"),
        raycluster_manifest.digest(other, "a"),
    }
    assert len(digests) == 3
    assert raycluster_manifest.digest(copy.deepcopy(manifest), "a") in digests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(apiVersion="ray.io/v1alpha1"), "apiVersion is 'ray.io/v1alpha1', not 'ray.io/v1'"),
        (lambda m: m["metadata"].pop("name"), "metadata.name is missing"),
        (lambda m: m["spec"].pop("headGroupSpec"), "spec.headGroupSpec is missing"),
        (
            lambda m: m["spec"]["workerGroupSpecs"][0]["template"]["spec"].update(containers=[]),
            "spec.workerGroupSpecs[0].template.spec.containers is empty",
        ),
        (
            lambda m: m["spec"]["headGroupSpec"]["template"]["spec"].update(restartPolicy="Never"),
            "restartPolicy 'Never'",
        ),
        (lambda m: m["spec"].update(headGroupSpec=None), "spec.headGroupSpec is missing"),
        (
            lambda m: containers(m).insert(0, {"name": "proxy", "image": "proxy:1"}),
            "spec.headGroupSpec.template.spec.containers[1] has no image: KubeRay runs Ray in the first container",
        ),
        (
            lambda m: (containers(m)[0].update(image="ray:1"), containers(m).insert(0, {"name": "p", "image": "p:1"})),
            "spec.headGroupSpec.template.spec.containers[1] is named as Ray's",
        ),
        (lambda m: m["spec"].update(workerGroupSpecs={"name": "cpu"}), "spec.workerGroupSpecs is invalid"),
        (
            lambda m: m["metadata"].update(labels="a=b"),
            "metadata.labels is invalid: input should be a valid dictionary",
        ),
        (lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update(port="6390"), "rayStartParams.port is 6390"),
        (
            lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"ray-client-server-port": "10055"}),
            "rayStartParams.ray-client-server-port is 10055: remove it, 10001 is expected",
        ),
        (
            lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"dashboard-port": 80}),
            "rayStartParams.dashboard-port is 80",
        ),
        (
            lambda m: (
                m["spec"]["headGroupSpec"]["rayStartParams"].update({"include-dashboard": "false"}),
                containers(m)[0].pop("livenessProbe"),
            ),
            "include-dashboard is false, and its Ray container has no livenessProbe: KubeRay's own asks the dashboard",
        ),
        (lambda m: m["spec"].update(suspend=True), "spec.suspend is true, and no label kueue.x-k8s.io/queue-name"),
        (
            lambda m: m["spec"].update(authOptions={"mode": "token", "enableK8sTokenAuth": True}),
            "enableK8sTokenAuth is not supported",
        ),
        (
            lambda m: m["spec"].update(gcsFaultToleranceOptions={"externalStorageNamespace": "mine"}),
            "externalStorageNamespace: remove it, or the clusters of several runs would share one state",
        ),
        (lambda m: containers(m)[0].update(env="RAY_USE_TLS=1"), "containers[0].env is invalid"),
        (lambda m: use_tls(m["spec"]["headGroupSpec"]), "workerGroupSpecs[0] does not set RAY_USE_TLS, as the head"),
        (
            lambda m: use_tls(m["spec"]["headGroupSpec"], *m["spec"]["workerGroupSpecs"]),
            "spec.autoscalerOptions.env does not set RAY_USE_TLS, as the head does: no worker would be added",
        ),
    ],
    ids=[
        *("old version", "no name", "no head", "no container", "a head that would not restart", "an empty head"),
        *(
            "a sidecar before Ray",
            "Ray named as such, but not first",
            "groups that are no list",
            "labels that are text",
        ),
        *(
            "another port of the GCS",
            "another port of the client",
            "another port of the dashboard",
            "no dashboard to ask",
            "suspended",
        ),
        *("tokens of service accounts", "one state for several clusters", "variables that are text"),
        *("TLS without the workers", "TLS without the autoscaler"),
    ],
)
def test_a_manifest_that_could_never_run_is_refused_with_the_path_of_its_error(
    manifest: dict[str, Any], change: Any, message: str, tmp_path: Path
):
    change(manifest)
    with pytest.raises(ParameterError) as error:
        written(manifest, tmp_path)
    assert message in str(error.value)
    assert "cluster.yaml" in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "kind: Pod\n", "a: [b", "kind: RayCluster\n---\nkind: RayCluster\n", "text", "- kind: RayCluster"]
)
def test_a_file_without_exactly_one_raycluster_is_refused(content: str, tmp_path: Path):
    (tmp_path / "cluster.yaml").write_text(content)
    with pytest.raises(ParameterError, match=r"cluster\.yaml"):
        raycluster_manifest.read(str(tmp_path / "cluster.yaml"))


def test_other_objects_beside_the_raycluster_are_refused_by_their_kinds(tmp_path: Path):
    (tmp_path / "cluster.yaml").write_text(f"kind: ConfigMap\n---\n{SHIPPED.read_text()}\n---\nkind: Secret\n---\n")
    with pytest.raises(ParameterError, match=r"\(it has ConfigMap, RayCluster, Secret\).*kubectl apply"):
        raycluster_manifest.read(str(tmp_path / "cluster.yaml"))


def test_empty_fields_are_absent(manifest: dict[str, Any], tmp_path: Path):
    manifest["metadata"] |= {"labels": None, "annotations": None, "ownerReferences": None}
    group = manifest["spec"]["workerGroupSpecs"][0]
    group["rayStartParams"] = None
    group["template"]["metadata"] = {"labels": None}
    manifest["spec"]["headGroupSpec"]["template"]["metadata"] = None
    containers(manifest)[0]["image"] = ""
    needs = Needs("one", "apart", image="run:1", flow_run_id="f", job=("job", "uid"))
    cluster = raycluster_manifest.for_run(written(manifest, tmp_path), needs)
    assert cluster["spec"]["headGroupSpec"]["template"]["metadata"] == {"labels": {"rayworks.io/flow-run-id": "f"}}
    assert containers(cluster)[0]["image"] == "run:1"
    assert raycluster_manifest.for_run(written(manifest, tmp_path), Needs("one", "apart", idle_seconds=60))


def test_a_cluster_that_a_queue_admits_may_be_suspended(manifest: dict[str, Any], tmp_path: Path):
    manifest["spec"]["suspend"] = True
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "teams"}
    assert written(manifest, tmp_path) == manifest


def test_a_manifest_for_another_namespace_is_refused(manifest: dict[str, Any]):
    manifest["metadata"]["namespace"] = "default"
    with pytest.raises(ParameterError, match=r"metadata\.namespace is default, not apart.*RAYWORKS_NAMESPACE"):
        raycluster_manifest.for_run(manifest, Needs("one", "apart"))
    assert raycluster_manifest.for_run(manifest, Needs("one", "default"))["metadata"]["namespace"] == "default"


def test_fields_that_rayworks_does_not_know_are_kept(manifest: dict[str, Any], tmp_path: Path):
    manifest["spec"]["gcsFaultToleranceOptions"] = {"redisAddress": "redis:6379"}
    pod = manifest["spec"]["headGroupSpec"]["template"]["spec"]
    pod |= {"imagePullSecrets": [{"name": "registry"}], "initContainers": [{"name": "wait", "image": "busybox"}]}
    containers(manifest).append({"name": "sidecar", "image": "sidecar:1"})
    containers(manifest)[0]["env"] = [{"name": "RAY_BACKEND_LOG_LEVEL", "value": "debug"}]
    cluster = raycluster_manifest.for_run(written(manifest, tmp_path), Needs("one", "apart"))
    assert cluster["spec"] == manifest["spec"]


def test_a_manifest_that_uses_tls_everywhere_is_accepted_and_known_to(manifest: dict[str, Any], tmp_path: Path):
    assert not raycluster_manifest.uses_tls(manifest)
    use_tls(manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"])
    manifest["spec"]["autoscalerOptions"]["env"].append({"name": "RAY_USE_TLS", "value": "1"})
    assert raycluster_manifest.uses_tls(written(manifest, tmp_path))


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        (None, None),
        ({"mode": "disabled"}, None),
        ({"mode": "token"}, "rayworks"),
        ({"mode": "token", "secretName": "shared"}, "shared"),
    ],
)
def test_the_token_of_a_cluster_is_in_its_secret(manifest: dict[str, Any], options: Any, secret: str | None):
    manifest["spec"]["authOptions"] = options
    assert raycluster_manifest.token_secret(manifest) == secret


@pytest.mark.parametrize(
    ("address", "is_manifest"),
    [
        (None, False),
        ("", False),
        ("auto", False),
        ("head:6379", False),
        ("ray://head:10001", False),
        ("raycluster.yaml", True),
        ("/etc/rayworks/manifest.yml", True),
        ("s3://lake/cluster.json", True),
    ],
)
def test_an_address_is_a_manifest_by_its_suffix(address: str | None, is_manifest: bool):
    assert raycluster_manifest.is_manifest(address) == is_manifest
