"""A driver outside of Kubernetes tells the pods only what they can use, and sends its code along."""

from pathlib import Path

import pytest

import rayworks
from rayworks.cluster.kubernetes.raycluster import reachable_from_pods, uploaded


@pytest.mark.parametrize(
    ("name", "value", "stays"),
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
def test_what_only_this_machine_has_is_left_to_the_pods_own_environment(name: str, value: str, stays: bool):
    assert reachable_from_pods({name: value}) == ({name: value} if stays else {})


def test_rayworks_travels_with_a_working_directory_that_does_not_hold_it(tmp_path: Path):
    package = str(Path(rayworks.__file__).parent)
    assert uploaded(tmp_path)["py_modules"] == [package]
    assert "py_modules" not in uploaded(Path(package).parent)
