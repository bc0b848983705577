"""What is said of a user's loop that does wrong, and where tuning starts. No Ray."""

import pytest

from rayworks.errors import ParameterError, TrainingError
from rayworks.params import Choice, FloatRange, IntRange, TrainOptions, TuneOptions
from rayworks.records import Dataset, DatasetRef, FeatureSet, Target
from rayworks.training import loop, training, tuning
from rayworks.training.loops import xgboost


def context(problem: str = "regression") -> loop.LoopContext:
    dataset = Dataset.model_construct(
        target=Target(name="y", problem=problem), feature_set=FeatureSet(columns=(), features=())
    )
    return loop.LoopContext(dataset, {}, rounds=1, patience=1, threads=1)


def test_a_loop_that_raises_is_quoted_with_file_and_line():
    with pytest.raises(TrainingError, match=r"ZeroDivisionError: the user's mistake, at .*example_loops\.py:\d+"):
        loop.run("tests.stages.example_loops:raises", context())


def test_a_loop_that_returns_no_model_is_told_what_is_needed():
    with pytest.raises(TrainingError, match=r"no model with a predict_proba method: builtins:dict .a dict"):
        loop.run("builtins:dict", _Iterable(context("binary")))


def test_a_loop_that_is_not_there_is_a_bad_parameter():
    with pytest.raises(ParameterError, match="no function 'tarin'"):
        loop.run("rayworks.training.loops.xgboost:tarin", context())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(value: float):
    with pytest.raises(TrainingError, match="not a number: round 3"):
        loop.check_finite(3, value)


def test_the_built_in_search_starts_at_the_built_in_defaults():
    space = tuning.space_of(TuneOptions(), TrainOptions().loop, {})
    assert tuning.first_point(space, xgboost.DEFAULTS) == xgboost.DEFAULTS


def test_a_loop_says_itself_what_is_searched_unless_the_options_do():
    depth = {"max_depth": IntRange(low=1, high=6)}
    assert tuning.space_of(TuneOptions(space=depth), TrainOptions().loop, {}) == depth
    assert tuning.space_of(TuneOptions(), "tests.stages.example_loops:linear", {}) == {}


def test_a_fixed_hyperparameter_is_not_searched():
    space = {"max_depth": IntRange(low=1, high=6), "eta": FloatRange(low=0, high=1)}
    assert tuning.space_of(TuneOptions(space=space), TrainOptions().loop, {"eta": 0.3}) == {
        "max_depth": space["max_depth"]
    }
    assert tuning.space_of(TuneOptions(space=space), TrainOptions().loop, {"eta": 0.3, "max_depth": 2}) == {}


def test_a_search_space_of_a_loop_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xgboost, "SPACE", {"max_depth": {"type": "int", "low": 3}})
    with pytest.raises(
        ParameterError, match=r"SPACE of rayworks.training.loops.xgboost:train, max_depth.int.high \(Field required\)"
    ):
        tuning.space_of(TuneOptions(), TrainOptions().loop, {})


@pytest.mark.parametrize(
    "dimension",
    [IntRange(low=1, high=5), FloatRange(low=7, high=9), Choice(values=[3])],
    ids=["int", "float", "choice"],
)
def test_defaults_outside_of_the_search_space_are_not_tried(dimension: IntRange | FloatRange | Choice):
    assert tuning.first_point({"max_depth": dimension}, {"max_depth": 6}) is None


def test_the_fingerprint_knows_what_changes_the_model_and_nothing_else():
    dataset = DatasetRef(
        uri="/d", fingerprint="f", name="d", target="y", problem="regression", rows_in=1, rows_kept=1, rows_rejected=0
    )
    same = [TrainOptions(), TrainOptions(workers=4), TrainOptions(max_failures=0, checkpoint_seconds=1)]
    other = [TrainOptions(rounds=5), TrainOptions(hyperparameters={"seed": 1})]
    assert len({training.fingerprint(dataset, options) for options in same}) == 1
    assert len({training.fingerprint(dataset, options) for options in [same[0], *other]}) == 3


class _Iterable:
    """A context of which ``dict`` makes an empty dictionary: a loop that returns no model."""

    def __init__(self, inner: loop.LoopContext):
        self.target = inner.target

    def __iter__(self):
        return iter(())
