"""What the documentation tells people to type is what works."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rayworks import command_line
from rayworks.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENVIRONMENT = ("PREFECT_API_URL", "PREFECT_DEFAULT_WORK_POOL_NAME", "KUBECONFIG", "RAYWORKS_TEST_IMAGE")
OTHERS = ("kubectl", "docker", "cd", "echo")  # what they do is tested where there is a cluster


def blocks(language: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Page and content of each fenced block of a language."""
    fenced = rf"^```{language}\n(.*?)^```"
    return [
        (page.name, text) for page in pages for text in re.findall(fenced, page.read_text(), re.MULTILINE | re.DOTALL)
    ]


COMMANDS = [
    (page, line.strip())
    for page, text in blocks("console")
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip()
]


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
        is_setting = name.removeprefix("RAYWORKS_").lower() in Settings.model_fields
        assert is_setting or name in ENVIRONMENT
    if words[0] in OTHERS:
        return
    assert words[:2] == ["uv", "run"], f"{page} tells to run a program that no test knows"
    program, arguments = words[2], words[3:]
    if program.startswith("flows/"):
        name = Path(program).stem
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        given = command_line.arguments(flow, arguments)
        options = {
            word.removeprefix("--").partition(".")[0].replace("-", "_") for word in arguments if word.startswith("--")
        }
        assert options <= set(given)
    elif program in ("prefect", "rayworks"):
        subprocess.run(
            [sys.executable, "-m", program, *arguments, "--help"], check=True, capture_output=True, timeout=60
        )
    elif program == "pytest":
        assert (ROOT / arguments[0]).is_dir()
    else:
        assert (program, arguments) == ("deployments/local.py", []), f"{page} tells to run a program that no test knows"
        assert "pipeline" in {deployment.name for deployment in runpy.run_path(str(ROOT / program))["deployments"]()}
