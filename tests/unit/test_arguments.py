"""Arguments of a flow, without running it."""

from typing import Any

import pytest

from rayworks.command_line import arguments
from rayworks.errors import ParameterError


def flow() -> Any:
    from flows.pipeline import pipeline

    return pipeline


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--process.columns", "{bad"), "process.columns"),
        (("--train.hyperparameters", "max_depth"), "train.hyperparameters"),
        (("--tune.space", '{"a": 3}'), "--tune.space.a"),
        (("--train.rounds", "many"), "--train.rounds .*valid integer"),
        (("--process.split.by", "hash"), "needs a key column"),
        (("--name", "a/b"), "--name .*should match pattern"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_with_the_reason(given: tuple[str, ...], words: str):
    with pytest.raises(ParameterError, match=rf"An argument .*{words}.*See --help\."):
        arguments(flow(), list(given))


def test_an_unknown_option_ends_with_its_name_and_the_code_of_bad_arguments(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        arguments(flow(), ["--nix", "3"])
    assert ended.value.code == 2
    assert "--nix" in capsys.readouterr().err


def test_hyperparameters_are_numbers_where_they_look_like_some():
    given = arguments(
        flow(), ["--train.hyperparameters", "alpha=1e-3", "--train.hyperparameters", "depth=4,kind=linear"]
    )
    assert given["train"].hyperparameters == {"alpha": 0.001, "depth": 4, "kind": "linear"}
    assert type(given["train"].hyperparameters["depth"]) is int


def test_a_search_space_is_what_is_given_and_nothing_else():
    given = arguments(flow(), ["--tune.space", '{"alpha": {"type": "float", "low": 1e-6, "high": 1}}'])
    assert list(given["tune"].space) == ["alpha"]


def test_a_name_is_free_within_what_every_registry_takes():
    assert arguments(flow(), ["--name", "rides_2024-v1"])["name"] == "rides_2024-v1"
