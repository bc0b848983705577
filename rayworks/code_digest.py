"""Digests of code: a stored result is found again only by the code that made it."""

import ast
import functools
import hashlib
import importlib.util
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

LIBRARY = Path(__file__).parent
_parse = threading.Lock()
"""Two threads that parse at a time break each other's count of the recursion (SystemError, python/cpython#106905)."""


@functools.cache
def of_library(*rooms: str) -> str:
    """Return a digest of rayworks' own code: its modules outside of rooms, and all modules of ``rooms``."""
    files = [*LIBRARY.glob("*.py"), *(file for room in rooms for file in (LIBRARY / room).rglob("*.py"))]
    return _digest({str(file.relative_to(LIBRARY)): file.read_bytes() for file in files})


def of_modules(*modules: str) -> str:
    """Return a digest of modules, and of all code of the user's own that they import, also inside functions.

    The user's own is what is not installed, and what is in the same top-level package as one of ``modules``. What a
    module imports is read from its source, without running it. A module without a file counts by its name alone.
    """
    packages = {module.partition(".")[0] for module in modules}
    pending, contents = list(modules), dict.fromkeys(modules, b"")
    visited: set[str] = set()
    while pending:
        module = pending.pop()
        if module in visited:
            continue
        visited.add(module)
        spec = _find(module, packages)
        if spec is None:
            continue
        parent = module.rpartition(".")[0]
        pending += [parent] if parent else []
        if spec.origin and (file := Path(spec.origin)).is_file():
            contents[module] = file.read_bytes()
            if file.suffix == ".py":
                package = parent if spec.submodule_search_locations is None else module
                pending += _imported(contents[module], package)
    return _digest(contents)


def _digest(contents: dict[str, bytes]) -> str:
    facts = [(name, hashlib.sha256(content).hexdigest()) for name, content in sorted(contents.items())]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _find(module: str, packages: set[str]) -> ModuleSpec | None:
    """Return where a module is, if it is the user's own, without importing its package."""
    top, *rest = module.split(".")
    if top == "__main__":  # a program that is run as a file has no spec
        file = getattr(sys.modules["__main__"], "__file__", None)
        return importlib.util.spec_from_file_location(top, file) if file else None
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made without a file
        return None
    if spec is None or (top not in packages and (top == LIBRARY.name or _is_installed(spec))):
        return None
    name = top
    for part in rest:
        name = f"{name}.{part}"
        if spec is None or spec.submodule_search_locations is None:
            return None
        folders = spec.submodule_search_locations
        try:
            spec = PathFinder.find_spec(name, folders)
        except KeyError:  # a folder without __init__.py in a package that is not imported: Python looks for it there
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [
                str(inner) for folder in folders if (inner := Path(folder, part)).is_dir()
            ]
    return spec


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is a part of Python or of a package that was installed."""
    place = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    if place is None:
        return True
    path = Path(place).resolve()
    return any(path.is_relative_to(folder) for folder in _installation_folders())


@functools.cache
def _installation_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(sysconfig.get_path(name) for name in names), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder).resolve() for folder in folders)


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Yield the names of all modules that a source may import. ``package`` is what its relative imports refer to."""
    try:
        with _parse:
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # it cannot be imported either
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)  # a module, or a name in one


def _absolute(node: ast.ImportFrom, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # a relative import beyond the top-level package
        return ""
