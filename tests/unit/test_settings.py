"""What the settings of an installation mean where one is not set."""

import pytest

from rayworks.settings import Settings


@pytest.mark.parametrize(
    ("tracking_uri", "ui_url", "address"),
    [
        (None, None, None),
        ("sqlite:////data/mlflow.db", None, None),
        ("http://mlflow:5000/", None, "http://mlflow:5000"),
        ("http://mlflow:5000", "https://mlflow.example.com/", "https://mlflow.example.com"),
        ("sqlite:////data/mlflow.db", "http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_browsers_find_mlflow_where_the_setting_says_or_else_at_a_tracking_uri_that_is_a_web_address(
    tracking_uri: str | None, ui_url: str | None, address: str | None
):
    assert Settings(mlflow_tracking_uri=tracking_uri, mlflow_ui_url=ui_url).mlflow_address() == address
