"""The Python code of the documentation runs unchanged, and prints what the page says it prints."""

import contextlib
import io
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.code_blocks import Block, blocks

CODE = blocks("python")
RAY_LINE = re.compile(r"(\x1b\[\d+m)?\((raylet|autoscaler|[^()]* pid=\d+)")
"""A line that Ray forwards to the terminal from another process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every file of the documentation, which is the working directory and is searched for modules."""
    folder = tmp_path_factory.mktemp("documentation")
    for block in CODE:
        (folder / block.file_name).write_text(block.text)
    before = Path.cwd()
    os.chdir(folder)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    os.chdir(before)


@pytest.fixture(scope="module")
def ray_for_flows(folder: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One embedded Ray, whose workers find the modules of the documentation."""
    os.environ["RAYWORKS_STORAGE_URI"] = str(tmp_path_factory.mktemp("storage"))
    from rayworks.runner.task_runner import ray_running

    with ray_running(init_kwargs={"num_cpus": 2, "object_store_memory": 300_000_000, "include_dashboard": False}):
        yield
    del os.environ["RAYWORKS_STORAGE_URI"]


def test_no_two_blocks_are_the_same_file():
    names = [block.file_name for block in CODE]
    assert sorted(names) == sorted(set(names))


@pytest.mark.usefixtures("ray_for_flows")
@pytest.mark.parametrize("block", CODE, ids=lambda block: f"{block.page} {block.file_name}")
def test_the_code_runs_and_prints_what_the_page_shows(block: Block, folder: Path):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(folder / block.file_name), run_name="__main__")
    if block.output:
        output = "".join(line for line in printed.getvalue().splitlines(keepends=True) if not RAY_LINE.match(line))
        pattern = re.escape(block.output.strip()).replace("…", ".*")
        assert re.fullmatch(pattern, output.strip(), re.DOTALL), output
