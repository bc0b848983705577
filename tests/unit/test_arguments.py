"""A flow's parameters from command-line arguments, and the end of a command that fails, without running a flow."""

import io
from typing import Any

import pytest
from rich.console import Console

from rayworks import command_line, storage
from rayworks.command_line import arguments
from rayworks.errors import ParameterError, StorageError
from rayworks.prefect_api import run_log, server


def flow() -> Any:
    from flows.pipeline import pipeline

    return pipeline


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("--process.columns", "{bad"), "process.columns"),
        (("--train.hyperparameters", "max_depth"), "train.hyperparameters"),
        (("--tune.space", '{"a": 3}'), "--tune.space.a"),
        (("--train.rounds", "many"), "--train.rounds .*valid integer"),
        (("--process.split.seed", "-1"), "--process.split.seed .*greater than or equal to 0"),
        (("--process.split.seed", f"{2**63}"), "--process.split.seed .*less than or equal to"),
        (("--tune.seed", "-1"), "--tune.seed .*greater than or equal to 0"),
        (("--process.split.by", "hash"), "needs a key column"),
        (("--name", "a/b"), "--name .*should match pattern"),
    ],
)
def test_an_invalid_argument_is_named_with_the_reason(command: tuple[str, ...], words: str):
    with pytest.raises(ParameterError, match=rf"An argument .*{words}.*See --help\."):
        arguments(flow(), list(command))


def test_an_unknown_option_is_named_and_exits_with_the_code_of_bad_arguments(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        arguments(flow(), ["--nix", "3"])
    assert exit_.value.code == command_line.BAD_ARGUMENTS == 2
    assert "--nix" in capsys.readouterr().err


def test_hyperparameters_that_look_like_numbers_are_numbers():
    parameters = arguments(
        flow(), ["--train.hyperparameters", "alpha=1e-3", "--train.hyperparameters", "depth=4,kind=linear"]
    )
    assert parameters["train"].hyperparameters == {"alpha": 0.001, "depth": 4, "kind": "linear"}
    assert type(parameters["train"].hyperparameters["depth"]) is int


def test_a_search_space_replaces_the_default_one():
    parameters = arguments(flow(), ["--tune.space", '{"alpha": {"type": "float", "low": 1e-6, "high": 1}}'])
    assert list(parameters["tune"].space) == ["alpha"]


def test_a_name_may_have_every_character_that_all_registries_accept():
    assert arguments(flow(), ["--name", "rides_2024-v1"])["name"] == "rides_2024-v1"


@pytest.fixture
def unexpected_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's server cannot start, for a reason that looks like the markup of the terminal."""

    def fail() -> None:
        raise ValueError("bad [/] value\nsecond line")

    monkeypatch.setattr(server, "start", fail)
    monkeypatch.setattr(run_log, "stop_printing", lambda: None)
    monkeypatch.setattr(command_line, "_show_cluster_log", lambda console: None)


def run() -> tuple[int, str]:
    output = io.StringIO()
    code = command_line._run(flow(), {}, Console(file=output, width=500))
    return code, output.getvalue()


def test_an_unexpected_error_is_one_line_with_the_place_of_its_traceback(
    unexpected_error: None, storage_uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    code, output = run()
    assert code == command_line.FAILED == 1
    assert "The flow pipeline failed: ValueError: bad [/] value. The traceback is stored in " in output
    assert "second line" not in output
    [(uri, _)] = storage.list_files(f"{storage_uri}/errors")
    assert uri in output
    assert "second line" in storage.read_bytes(uri).decode()


@pytest.mark.parametrize("setting", [("RAYWORKS_STORAGE_URI", "/"), ("RAYWORKS_RAY_START_SECONDS", "never")])
def test_a_traceback_that_cannot_be_stored_is_printed(
    unexpected_error: None, storage_uri: str, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]
):
    def refuse(uri: str, content: bytes) -> None:
        raise StorageError("cannot write", where=uri)

    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    monkeypatch.setenv(*setting)
    monkeypatch.setattr(storage, "write_bytes", refuse)
    code, output = run()
    assert code == 1
    assert "Traceback" in output
    assert "second line" in output
