"""User code by import path: how it is found, reported when missing, and fingerprinted. No Ray."""

import importlib
import sys
from pathlib import Path

import pytest

from rayworks import import_path
from rayworks.errors import ParameterError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory. Modules imported from it are unloaded afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # two versions written within one second would have the same time stamp
    return tmp_path


def write(file: Path, source: str) -> None:
    """Write a module so that the next import loads it, as a new process would."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    for name in [name for name in sys.modules if name.partition(".")[0] in (file.stem, file.parent.name)]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize("path", ["my_features:double", "my_features.double"])
def test_a_function_in_a_file_of_the_working_directory_is_loaded(folder: Path, path: str):
    write(folder / "my_features.py", "def double(x):\n    return 2 * x\n")
    assert import_path.load(path)(2) == 4


def test_installed_packages_take_precedence_over_the_working_directory(folder: Path):
    write(folder / "json.py", "def dumps(x):\n    return 'the wrong one'\n")
    assert import_path.load("json:dumps")(1) == "1"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "my_featurs:double",
            r"The module could not be imported: my_featurs \(ModuleNotFoundError: .*that my_featurs.py is in /",
        ),
        ("my_features:doubel", r"The module has no function 'doubel': .*its functions are double\)\. Name one of them"),
        ("my_features:RATE", r"The module has no function 'RATE': .*its functions are double\)"),
        ("broken:f", r"The module could not be imported: broken \(ZeroDivisionError: division by zero\)"),
        ("unfinished:f", r"The module could not be imported: unfinished \(SyntaxError: "),
        ("double", r"Not an import path: 'double'\. Write it as module:function"),
        (":double", r"Not an import path: ':double'"),
        ("", r"Not an import path: ''"),
        ("..features:double", r"The module could not be imported: \.\.features"),
    ],
)
def test_a_path_that_names_no_function_is_refused_with_a_sentence(folder: Path, path: str, words: str):
    write(folder / "my_features.py", "RATE = 2\ndef double(x):\n    return RATE * x\ndef _hidden():\n    pass\n")
    write(folder / "broken.py", "1 / 0\n")
    write(folder / "unfinished.py", "def f(\n")
    with pytest.raises(ParameterError, match=words):
        import_path.load(path)


def test_the_fingerprint_changes_with_any_line_of_the_module(folder: Path):
    source = "RATE = 2\ndef double(x):\n    return RATE * x\n"
    write(folder / "my_features.py", source)
    first = import_path.fingerprint("my_features:double")
    assert import_path.fingerprint("my_features:double") == first
    write(folder / "my_features.py", source.replace("2", "3"))
    assert import_path.fingerprint("my_features:double") != first


@pytest.mark.parametrize(
    "named_source",
    [
        "from my_code.inner import double",
        "import functools, my_code.inner as inner\ndouble = functools.partial(inner.double)",
    ],
    ids=["imported", "partial"],
)
@pytest.mark.parametrize("changed", ["__init__", "inner"])
def test_the_fingerprint_changes_with_the_named_and_the_defining_module(folder: Path, named_source: str, changed: str):
    sources = {"__init__": named_source, "inner": "def double(x):\n    return 2 * x\n"}
    for name, source in sources.items():
        write(folder / "my_code" / f"{name}.py", source)
    first = import_path.fingerprint("my_code:double")
    write(folder / "my_code" / f"{changed}.py", sources[changed] + "\n# changed\n")
    assert import_path.fingerprint("my_code:double") != first


def test_the_fingerprint_changes_with_a_module_beside_the_named_one(folder: Path):
    write(folder / "my_features.py", "def double(x):\n    import my_rates\n    return my_rates.RATE * x\n")
    write(folder / "my_rates.py", "RATE = 2\n")
    first = import_path.fingerprint("my_features:double")
    write(folder / "my_rates.py", "RATE = 3\n")
    assert import_path.fingerprint("my_features:double") != first


def test_code_without_source_has_a_fingerprint():
    assert import_path.fingerprint("math:sqrt") == import_path.fingerprint("math:cos")
