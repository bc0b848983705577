"""What the documentation tells people to type and to write is what works."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rayworks import command_line
from rayworks.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = ("--tune.trials", "2", "--evaluate.minimum-slice-rows", "20")


def blocks(language: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Page and content of each fenced block of a language."""
    fenced = rf"^```{language}\n(.*?)^```"
    return [(page.name, text) for page in pages for text in re.findall(fenced, page.read_text(), re.MULTILINE | re.DOTALL)]


COMMANDS = [
    (page, line.strip()) for page, text in blocks("console") for line in text.replace("\\\n", " ").splitlines() if line.strip()
]
MODULES = {text.splitlines()[0].removeprefix("# "): text for _, text in blocks("python")}


def test_the_first_two_commands_of_the_readme_start_the_pipeline_and_the_tests():
    first, second = [text.strip() for _, text in blocks("bash", PAGES[:1])][:2]
    assert first == "pip install uv && uv run flows/pipeline.py"
    assert second == "pip install uv && uv run pytest"
    assert "\nuv run pytest\n" in (ROOT / ".ci" / "run").read_text()


def test_the_first_command_needs_no_argument():
    from flows.pipeline import pipeline

    assert command_line.arguments(pipeline, [])["uri"] == "example://flights"


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page} {n}" for n, (page, _) in enumerate(COMMANDS)])
def test_every_command_can_be_typed_as_it_stands(page: str, command: str):
    words = shlex.split(command)
    while "=" in words[0]:
        name = words.pop(0).partition("=")[0]
        assert name == "PREFECT_API_URL" or name.removeprefix("RAYWORKS_").lower() in Settings.model_fields
    assert words[:2] == ["uv", "run"]
    program, arguments = words[2], words[3:]
    if program.startswith("flows/"):
        name = Path(program).stem
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        given = command_line.arguments(flow, arguments)
        options = {word.removeprefix("--").partition(".")[0].replace("-", "_") for word in arguments if word.startswith("--")}
        assert options <= set(given)
    elif program == "prefect":
        subprocess.run([sys.executable, "-m", "prefect", *arguments, "--help"], check=True, capture_output=True, timeout=60)
    else:
        assert (program, arguments) == ("deployments/local.py", []), f"{page} tells to run a program that no test knows"
        assert "pipeline" in {deployment.name for deployment in runpy.run_path(str(ROOT / program))["deployments"]()}


def test_the_code_of_the_documentation_takes_own_data_to_a_promoted_model(tmp_path: Path):
    """The page about own code, followed: its feature function, its training loop, and its command with both."""
    assert set(MODULES) == {"my_features.py", "my_loop.py"}, "a block of Python that is not tried here"
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    random, rows = np.random.default_rng(0), 600
    distance, minutes = random.uniform(1, 20, rows).round(2), random.uniform(5, 60, rows).round(1)
    lines = [f"{d},{m},{3 + 2 * d + random.normal(0, 0.2):.2f}" for d, m in zip(distance, minutes, strict=True)]
    (tmp_path / "rides.csv").write_text("\n".join(["distance,minutes,fare", *lines]) + "\n")
    written = [shlex.split(command) for page, command in COMMANDS if page == "own-code.md"]
    with_loop = next(words for words in written if "--train.loop" in words)
    with_function = next(words for words in written if "--process.feature-function" in words)
    function = with_function[with_function.index("--process.feature-function") :][:2]
    command = [sys.executable, str(ROOT / with_loop[2]), *with_loop[3:], *function, *QUICK]
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "RAYWORKS_STORAGE_URI": str(tmp_path / "storage"), "COLUMNS": "200"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAYWORKS_"))} | own
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 in, 600 kept" in done.stdout
    assert "Promoted: rmse" in done.stdout
