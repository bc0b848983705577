"""The sizes of files and functions, and where the private names of other packages may be used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
REASON = "Longer than 400 lines:"
"""What the docstring of a longer module says, followed by the reason."""
OURS = {"rayworks", "tasks", "flows"}


def python_files(*folders: str) -> list[str]:
    """The Python files in ``folders`` that git tracks or would track; by default in all."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *[f"{f}/**.py" for f in folders or "*"]]
    paths = subprocess.check_output(command, cwd=ROOT, text=True).split()
    return sorted(path for path in paths if (ROOT / path).exists())


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def test_a_file_has_at_most_400_lines_unless_its_docstring_gives_the_reason():
    long = {path: len((ROOT / path).read_text().splitlines()) for path in python_files()}
    long = {path: lines for path, lines in long.items() if lines > LONGEST_FILE}
    assert {path: lines for path, lines in long.items() if REASON not in (ast.get_docstring(tree(path)) or "")} == {}


def test_a_function_has_at_most_60_lines():
    functions = [
        (f"{path}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [function for function in functions if function[1] > LONGEST_FUNCTION] == []


def test_private_names_of_other_packages_are_used_in_private_modules_only():
    users = [path for path in python_files(*OURS) if not path.endswith("/_private.py")]
    assert [f"{path}:{use}" for path in users for use in private_uses(tree(path))] == []


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("import ray._private.services", "1 ray._private.services"),
        ("from ray._private import services", "1 ray._private.services"),
        ("from ray.serve.context import _get_global_client as get", "1 ray.serve.context._get_global_client"),
        ("import ray; ray._private.worker", "1 ray._private"),
        ("from prefect import context as c; c.FlowRunContext._x", "1 prefect.context.FlowRunContext._x"),
    ],
)
def test_a_private_name_is_recognized(line: str, use: str):
    assert list(private_uses(ast.parse(line))) == [use]


@pytest.mark.parametrize(
    "line", ["import os; os._exit(1)", "from rayworks.cluster import _private", "import ray; ray.__version__"]
)
def test_the_standard_library_and_our_own_modules_may_be_used_anywhere(line: str):
    assert list(private_uses(ast.parse(line))) == []


def test_every_function_of_a_private_module_is_named_in_a_test_of_the_seams():
    tests = "".join((ROOT / path).read_text() for path in python_files("tests/seams"))
    names = [
        f"{path}:{node.name}"
        for path in python_files("rayworks")
        if path.endswith("/_private.py")
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    assert [name for name in names if name.partition(":")[2] not in tests] == []


def private_uses(module: ast.Module) -> Iterator[str]:
    """Yield the line and the dotted name of each private name of another package that a module uses."""
    imported: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                if is_private(alias.name):
                    yield f"{node.lineno} {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                imported[alias.asname or alias.name] = name
                if is_private(name):
                    yield f"{node.lineno} {name}"
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and (owner := dotted(node.value)):
            first, _, rest = owner.partition(".")
            name = ".".join(filter(None, (imported.get(first), rest, node.attr)))
            if first in imported and not is_private(imported[first]) and is_private(name):
                yield f"{node.lineno} {name}"


def is_private(name: str) -> bool:
    """Whether a part of a dotted name of another package starts with one underscore."""
    package, *parts = name.split(".")
    if package in OURS or package in sys.stdlib_module_names:
        return False
    return any(part.startswith("_") and not part.startswith("__") for part in parts)


def dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of an expression that is nothing but names and attributes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None
