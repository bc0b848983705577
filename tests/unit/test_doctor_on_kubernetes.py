"""What doctor says about a RayCluster manifest: the same as a run, and never a traceback."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rayworks import doctor
from rayworks.settings import Settings
from tests.certificates import Authority, use_tls

SHIPPED = Path(__file__).resolve().parents[2] / "deployments/kubernetes/base/raycluster.yaml"


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Checks the shipped manifest after a change, with an API that allows what ``may`` says: levels and details."""

    def check(change: Any = lambda manifest: None, may: Any = lambda *_, **__: True) -> dict[str, str]:
        api = SimpleNamespace(
            namespace="rayworks",
            server_version=lambda: "v1",
            may=may,
            create=lambda *_, **__: None,
            nodes=list,
        )
        monkeypatch.setattr(doctor, "KubernetesApi", lambda _: api)
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        manifest = yaml.safe_load(SHIPPED.read_text())
        change(manifest)
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(manifest))
        settings = Settings(ray_address=str(tmp_path / "cluster.yaml"), image="image:1")
        return {line.check: f"{line.level}: {line.detail}" for line in doctor._kubernetes(settings)}

    return check


def test_the_shipped_manifest_passes(levels: Any):
    lines = levels()
    assert [check for check, line in lines.items() if line.startswith("fail")] == []
    assert lines["image"].startswith("warn: image:1")


def test_an_empty_head_fails_the_manifest(levels: Any):
    lines = levels(lambda manifest: manifest["spec"].update(headGroupSpec=None))
    assert lines["manifest"].startswith("fail: This RayCluster cannot run: ")
    assert "RayCluster dry run" not in lines


def test_empty_metadata_of_pods_passes(levels: Any):
    lines = levels(lambda manifest: manifest["spec"]["headGroupSpec"]["template"].update(metadata=None))
    assert lines["RayCluster dry run"].startswith("pass: ")


def test_another_namespace_fails_the_dry_run(levels: Any):
    lines = levels(lambda manifest: manifest["metadata"].update(namespace="default"))
    assert lines["RayCluster dry run"].startswith("fail: The manifest names another namespace than the run uses")


def test_whether_this_process_can_speak_tls_with_the_cluster_is_checked(
    levels: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    assert "TLS" not in levels()
    assert levels(use_tls)["TLS"].startswith("fail: Ray wants TLS: ")
    for name, value in Authority(tmp_path / "authority").environment("driver").items():
        monkeypatch.setenv(name, value)
    assert levels(use_tls)["TLS"].startswith("pass: the certificate ")


@pytest.mark.parametrize(
    ("secret", "allowed", "words"),
    [
        ({}, False, "fail: The account may not read the token that the cluster wants: the Secret of each cluster"),
        ({"secretName": "token"}, True, "pass: from Secret token"),
    ],
)
def test_whether_the_token_of_a_cluster_can_be_read_is_checked(levels: Any, secret: Any, allowed: bool, words: str):
    def may(verb: str, group: str, resource: str, *, name: str = "") -> bool:
        return resource != "secrets" or (allowed and name == "token")

    lines = levels(lambda manifest: manifest["spec"].update(authOptions={"mode": "token", **secret}), may)
    assert lines["token"].startswith(words)
