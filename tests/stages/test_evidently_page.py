"""Evidently's page on a sample. Needs the extra: ``uv run --isolated --extra evidently pytest`` with this file."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayworks.errors import MissingExtraError
from rayworks.evaluation import champion_drift
from rayworks.monitoring.options import MonitorOptions

needs_evidently = pytest.mark.skipif(
    importlib.util.find_spec("evidently") is None, reason="NO EVIDENTLY: install the extra evidently to test its page"
)

ALONE = """
import sys
tried = []
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork"):
        tried.append((event, str(arguments)))
        raise ConnectionRefusedError(event)

import numpy as np, polars as pl
from rayworks.evaluation import evidently_page
from rayworks.records import ColumnStatistics

kinds = {"number": "numeric", "word": "categorical", "flag": "boolean", "gone": "numeric"}
def rows(mean):
    chance = np.random.default_rng(1)
    words = pl.Series("word", chance.choice(["a", "b", None], 2000).tolist(), pl.String)
    numbers, flags = pl.Series("number", chance.normal(mean, 1, 2000)), pl.Series("flag", chance.random(2000) < 0.2)
    return pl.DataFrame([numbers, words, flags, pl.Series("gone", [None] * 2000, pl.Float64)])

sys.addaudithook(refuse)
columns = [ColumnStatistics(name=name, kind=kind, rows=2000, missing=0) for name, kind in kinds.items()]
page = evidently_page.html(rows(0), rows(1), columns)
from evidently.telemetry import event_logger
event_logger.send_event("tests", "send")
assert tried == [], tried
open(sys.argv[1], "w").write(page)
"""


@needs_evidently
def test_evidently_reaches_no_network_and_its_page_needs_none(tmp_path: Path, browser):
    environment = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    file = tmp_path / "evidently.html"
    command = [sys.executable, "-c", ALONE, str(file)]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert made.returncode == 0, made.stderr
    page, asked = browser.new_page(), []
    page.route("**/*", lambda route: route.continue_() if route.request.url == file.as_uri() else route.abort())
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.get_by_text("Dataset Drift").first.wait_for(timeout=60_000)
    page.get_by_text("Drift is detected for 33.333% of columns (1 out of 3)").first.wait_for(timeout=60_000)
    assert [url for url in asked if not url.startswith(("data:", "blob:", file.as_uri()))] == []
    page.close()


def test_without_evidently_its_page_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    uris = {"storage_uri": "/nowhere", "tracking_uri": "sqlite:////nowhere/mlflow.db"}
    with pytest.raises(MissingExtraError, match=r"Evidently is not installed.*pip install 'rayworks\[evidently\]'"):
        champion_drift.stage("rides", "/nowhere", MonitorOptions(evidently_rows=1000), **uris)
