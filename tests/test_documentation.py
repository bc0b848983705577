"""Commands, manifests and quoted messages of the documentation are those of the code."""

import ast
import importlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from rayworks import command_line
from rayworks.cluster.kubernetes import diagnosis, raycluster_manifest
from rayworks.settings import Settings
from tests.docs.code_blocks import PAGES, ROOT, blocks

ENVIRONMENT = ("PREFECT_API_URL", "PREFECT_DEFAULT_WORK_POOL_NAME", "KUBECONFIG", "RAYWORKS_TEST_IMAGE")
OTHERS = ("kubectl", "docker", "cd", "echo", "curl", "openssl")  # what they do is tested where there is a cluster
TROUBLE = ROOT / "docs" / "trouble.md"

COMMANDS = [
    (block.page, line.strip())
    for block in blocks("console")
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.strip()
]


def test_the_first_two_commands_of_the_readme_start_the_pipeline_and_the_tests():
    first, second = [block.text.strip() for block in blocks("bash", PAGES[:1])][:2]
    assert first == "pip install uv && uv run flows/pipeline.py"
    assert second == "pip install uv && uv run pytest"
    assert "\nuv run pytest\n" in (ROOT / ".ci" / "run").read_text()


def test_the_first_command_needs_no_argument():
    from flows.pipeline import pipeline

    assert command_line.arguments(pipeline, [])["uri"] == "example://flights"


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page} {n}" for n, (page, _) in enumerate(COMMANDS)])
def test_every_command_can_be_typed_unchanged(page: str, command: str):
    words = shlex.split(command, comments=True)
    while "=" in words[0]:
        name = words.pop(0).partition("=")[0]
        is_setting = name.removeprefix("RAYWORKS_").lower() in Settings.model_fields
        assert is_setting or name in ENVIRONMENT
    if words[0] in OTHERS:
        return
    if words[0] == "python":
        assert words[1] in {block.file_name for block in blocks("python")}, (
            f"{page} runs a program that it does not show"
        )
        return
    if words[:2] == ["pip", "install"]:
        check_package(words[2])
        return
    assert words[:2] == ["uv", "run"], f"{page} runs a program that no test knows"
    program, arguments = words[2], words[3:]
    if program.startswith("flows/"):
        name = Path(program).stem
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        parsed = command_line.arguments(flow, arguments)
        options = {
            word.removeprefix("--").partition(".")[0].replace("-", "_") for word in arguments if word.startswith("--")
        }
        assert options <= set(parsed)
    elif program in ("prefect", "rayworks"):
        subprocess.run(
            [sys.executable, "-m", program, *arguments, "--help"], check=True, capture_output=True, timeout=60
        )
    elif program == "pytest":
        assert (ROOT / arguments[0]).is_dir()
    else:
        assert (program, arguments) == ("deployments/local.py", []), f"{page} runs a program that no test knows"
        assert callable(runpy.run_path(str(ROOT / program))["main"])


def check_package(requirement: str) -> None:
    """Fail unless a requirement names this package, and only extras that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match = re.fullmatch(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement)
    assert match is not None
    assert match[1] == project["name"]
    assert set(match[2].split(",") if match[2] else ()) <= set(project["optional-dependencies"])


MANIFESTS = [
    block for block in blocks("yaml") if "kind: " in block.text
]  # the cluster tests add the other blocks to one


@pytest.mark.parametrize("block", MANIFESTS, ids=lambda block: f"{block.page} {block.file_name}")
def test_every_raycluster_manifest_can_come_up(block):
    manifest = yaml.safe_load(block.text)
    assert manifest["kind"] == "RayCluster"
    raycluster_manifest.check(manifest, where=block.page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_documentation_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, heading = target.partition("#")
        if "://" in file:
            continue
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not heading or heading in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(after: str) -> list[str]:
    """The code in the first cell of each row of the first table after a line of trouble.md."""
    section = TROUBLE.read_text().partition(after)[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return [match[1] for line in table[0].splitlines() if (match := re.match(r"\| `([^`]+)`", line))]


def messages_of_the_code() -> Iterator[str]:
    """Every string of the code, with … for each value that is put into it."""
    for folder in ("rayworks", "tasks", "flows"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def occurs_in(message: str, text: str) -> bool:
    """Whether ``text`` has all parts of a quoted message in their order; a message begins with a capital letter."""
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    return re.search(".*".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def test_every_message_that_trouble_quotes_is_one_of_the_code():
    known = list(messages_of_the_code())
    quoted = rows("# Trouble")
    assert len(quoted) > 5
    foreign = {"Can't connect to Server API"}  # Prefect's UI shows it
    assert [message for message in quoted if not any(occurs_in(message, text) for text in known)] == sorted(foreign)


def test_trouble_explains_every_condition_of_a_raycluster():
    assert set(rows("## A RayCluster that does not come up")) == set(get_args(diagnosis.Condition))
