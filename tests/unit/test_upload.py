"""A driver outside of Kubernetes sends the pods its code, and only those of its settings that hold there."""

from pathlib import Path

import pytest

import rayworks
from rayworks.cluster.kubernetes.upload import reachable_from_pods, runtime_env


@pytest.mark.parametrize(
    ("name", "value", "is_sent"),
    [
        ("PREFECT_API_URL", "http://127.0.0.1:4200/api", False),
        ("PREFECT_API_URL", "http://localhost:4200/api", False),
        ("PREFECT_API_URL", "http://[::1]:4200/api", False),
        ("PREFECT_API_URL", "https://prefect.example.com/api", True),
        ("RAYWORKS_STORAGE_URI", "/home/me/.rayworks", False),
        ("RAYWORKS_STORAGE_URI", "s3://lake/rayworks", True),
        ("RAYWORKS_MLFLOW_TRACKING_URI", "sqlite:////home/me/mlflow.db", False),
        ("RAYWORKS_MLFLOW_TRACKING_URI", "http://mlflow:5000", True),
        ("PREFECT_LOGGING_LEVEL", "DEBUG", True),
    ],
)
def test_addresses_that_only_this_machine_has_are_not_sent_to_the_pods(name: str, value: str, is_sent: bool):
    assert reachable_from_pods({name: value}) == ({name: value} if is_sent else {})


def test_rayworks_is_uploaded_beside_a_working_directory_that_does_not_contain_it(tmp_path: Path):
    package = str(Path(rayworks.__file__).parent)
    assert runtime_env(tmp_path)["py_modules"] == [package]
    assert "py_modules" not in runtime_env(Path(package).parent)
