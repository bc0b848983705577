"""What ``kubectl apply -k`` would apply: the whole installation, and the one beside servers that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.installation import ROOT

pytestmark = pytest.mark.kubernetes

FULL, BESIDE_SERVERS = ".", "overlays/existing-servers"
CREATED_BY_USERS = {"object-storage", "servers"}
"""Secrets that every pod reads if they exist."""


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The objects of both installations."""
    if shutil.which("kubectl") is None:
        pytest.skip("NO KUBECTL: install it to test the manifests")
    folder = tmp_path_factory.mktemp("manifests") / "kubernetes"
    shutil.copytree(ROOT / "deployments/kubernetes", folder)
    (folder / "postgres.env").write_text("POSTGRES_PASSWORD=secret\n")
    return {name: built(folder / name) for name in (FULL, BESIDE_SERVERS)}


def built(folder: Path) -> list[dict[str, Any]]:
    output = subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(output))


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pod templates: of workloads, of the Job of a flow run, and of its RayCluster."""
    for kind in ("Deployment", "StatefulSet"):
        yield from (each["spec"]["template"] for each in of_kind(objects, kind).values())
    configuration = {name: each["data"] for name, each in of_kind(objects, "ConfigMap").items()}
    [pool] = [json.loads(data["work-pool.json"]) for data in configuration.values() if "work-pool.json" in data]
    yield pool["job_configuration"]["job_manifest"]["spec"]["template"]
    cluster = yaml.safe_load(configuration["raycluster"]["raycluster.yaml"])["spec"]
    yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))


def references(value: Any) -> Iterator[tuple[str, str, bool]]:
    """The kind, the name and whether it may be absent, of each ConfigMap, Secret and claim that a pod names."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("configMapRef", "configMapKeyRef", "configMap"):
                yield "ConfigMap", each["name"], each.get("optional", False)
            elif key in ("secretRef", "secretKeyRef"):
                yield "Secret", each["name"], each.get("optional", False)
            elif key == "persistentVolumeClaim":
                yield "PersistentVolumeClaim", each["claimName"], False
            else:
                yield from references(each)


@pytest.mark.parametrize("installation", [FULL, BESIDE_SERVERS])
def test_every_configmap_secret_and_claim_that_a_pod_names_is_there_or_may_be_absent(
    applied: dict[str, list[dict[str, Any]]], installation: str
):
    objects = applied[installation]
    named = {reference for pod in pods(objects) for reference in references(pod)}
    missing = {name for kind, name, optional in named if not optional and name not in of_kind(objects, kind)}
    assert missing == set()
    assert {name for _, name, optional in named if optional} == CREATED_BY_USERS


def test_beside_existing_servers_only_what_is_missing_is_installed(applied: dict[str, list[dict[str, Any]]]):
    objects = applied[BESIDE_SERVERS]
    assert set(of_kind(objects, "Deployment")) == {"prefect-worker", "sweep"}
    assert not {"StatefulSet", "Service", "Secret"} & {each["kind"] for each in objects}
    assert set(of_kind(objects, "PersistentVolumeClaim")) == {"rayworks-storage"}
    in_both = {(each["kind"], re.sub("-[a-z0-9]{10}$", "", each["metadata"]["name"])) for each in objects}
    assert in_both < {(each["kind"], re.sub("-[a-z0-9]{10}$", "", each["metadata"]["name"])) for each in applied[FULL]}


def test_beside_existing_servers_their_addresses_and_a_work_pool_of_its_own_are_set(
    applied: dict[str, list[dict[str, Any]]],
):
    full, beside = (of_kind(applied[name], "ConfigMap")["rayworks"]["data"] for name in (FULL, BESIDE_SERVERS))
    assert set(full) == set(beside)
    same = {name for name in full if full[name] == beside[name]}
    # A port-forward has the same address everywhere.
    assert same == {"RAYWORKS_STORAGE_URI", "RAYWORKS_RAY_ADDRESS", "PREFECT_UI_URL", "RAYWORKS_MLFLOW_UI_URL"}


@pytest.mark.parametrize("installation", [FULL, BESIDE_SERVERS])
def test_each_network_policy_selects_pods_of_the_installation_and_admits_such_pods(
    applied: dict[str, list[dict[str, Any]]], installation: str
):
    objects = applied[installation]
    labels = [pod.get("metadata", {}).get("labels", {}) for pod in pods(objects)]
    labels.append({"ray.io/is-ray-node": "yes"})  # KubeRay's

    def selects(selector: dict[str, Any]) -> bool:
        wanted = selector.get("matchLabels", {})
        among = selector.get("matchExpressions", ())
        return any(
            wanted.items() <= each.items() and all(each.get(e["key"]) in e["values"] for e in among) for each in labels
        )

    policies = of_kind(objects, "NetworkPolicy")
    assert "default-deny" in policies
    for name, policy in policies.items():
        assert selects(policy["spec"]["podSelector"]), name
        for rule in policy["spec"].get("ingress", ()):
            own = [peer for peer in rule.get("from", ()) if "namespaceSelector" not in peer]
            assert all(selects(peer["podSelector"]) for peer in own), name
