"""Errors of user-defined loops, their declarations, and where tuning starts. No Ray."""

import functools
import importlib.util

import pytest

from rayworks.data import manifest
from rayworks.errors import ParameterError, TrainingError, TransferError
from rayworks.params import Choice, FloatRange, IntRange, TrainOptions, TuneOptions
from rayworks.progress import Progress
from rayworks.records import Dataset, DatasetRef, FeatureSet, Target, Trial
from rayworks.training import loop, process_group, search, search_space, training, tuning
from rayworks.training.loops import xgboost
from rayworks.training.search import Search


def context(problem: str = "regression") -> loop.LoopContext:
    dataset = Dataset.model_construct(
        target=Target(name="y", problem=problem), feature_set=FeatureSet(columns=(), features=())
    )
    return loop.LoopContext(dataset, {}, metric="rmse", rounds=1, patience=1, threads=1)


def test_a_loop_that_raises_is_quoted_with_file_and_line():
    with pytest.raises(TrainingError, match=r"ZeroDivisionError: the user's mistake, at .*example_loops\.py:\d+"):
        loop.run("tests.stages.example_loops:raises", context())


def test_a_loop_that_returns_no_model_is_an_error_that_names_the_missing_method():
    with pytest.raises(ParameterError, match=r"no model with a predict_proba method: builtins:dict .a dict"):
        loop.run("builtins:dict", _Iterable(context("binary")))


def test_a_model_that_cannot_be_pickled_is_an_error_that_names_the_loop_and_the_attribute():
    words = (
        r"cannot be pickled: tests.stages.example_loops:holds_a_lock, Constant, its attribute lock \(TypeError: .*lock"
    )
    with pytest.raises(TransferError, match=words):
        loop.run("tests.stages.example_loops:holds_a_lock", _Silent(context()))


def test_a_loop_that_does_not_exist_is_a_parameter_error():
    with pytest.raises(ParameterError, match="no function 'tarin'"):
        loop.run("rayworks.training.loops.xgboost:tarin", context())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_metric_that_is_not_finite_fails_the_training(value: float):
    with pytest.raises(TrainingError, match="not a number: round 3"):
        loop.check_finite(3, value)


def test_the_built_in_search_starts_at_the_built_in_defaults():
    space = search_space.of(TuneOptions(), TrainOptions().loop, {})
    defaults = {name: value for name, value in xgboost.DEFAULTS.items() if name != "learning_rate"}
    assert search_space.first_point(space, xgboost.DEFAULTS) == defaults


def test_the_loops_module_declares_the_search_space_unless_the_options_do():
    depth = {"max_depth": IntRange(low=1, high=6)}
    assert search_space.of(TuneOptions(space=depth), TrainOptions().loop, {}) == depth
    assert search_space.of(TuneOptions(), "tests.stages.example_loops:linear", {}) == {}


def test_what_a_loops_module_declares_is_read_in_one_place():
    built_in = loop.declarations(TrainOptions().loop)
    assert built_in.defaults == xgboost.DEFAULTS
    assert set(built_in.space) == set(xgboost.SPACE)
    assert built_in.backend == "xgboost"
    assert built_in.aliases == xgboost.ALIASES
    assert loop.declarations("builtins:dict") == loop.Declarations(space={}, defaults={}, backend=None, aliases={})


def test_a_partial_of_a_loop_has_the_declarations_of_the_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xgboost, "partial", functools.partial(xgboost.train), raising=False)
    assert loop.declarations("rayworks.training.loops.xgboost:partial") == loop.declarations(TrainOptions().loop)


def test_an_unknown_process_group_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xgboost, "BACKEND", "mpi")
    with pytest.raises(
        ParameterError, match=r"BACKEND of rayworks.training.loops.xgboost:train \('mpi'\).*xgboost, torch"
    ):
        loop.declarations(TrainOptions().loop)


def test_several_workers_get_the_process_group_that_the_loop_declares():
    from ray.train.xgboost import XGBoostConfig

    assert isinstance(process_group.config("xgboost", 2), XGBoostConfig)
    assert process_group.config("xgboost", 1) is None
    assert process_group.config(None, 2) is None


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_a_process_group_whose_library_is_missing_is_refused():
    with pytest.raises(ParameterError, match="needs PyTorch"):
        process_group.config("torch", 2)


def trial(number: int, *values: float) -> Trial:
    mean = sum(values) / len(values) if values else None
    state = "completed" if values else "failed"
    return Trial(number=number, hyperparameters={}, metric=mean, values=values, rounds=1, seconds=1, state=state)


@pytest.mark.parametrize(("metric", "best"), [("log_loss", 1), ("roc_auc", 2)])
def test_the_best_trial_is_the_best_in_the_direction_of_the_metric(metric: str, best: int):
    trials = (trial(0, 0.5, 0.5), trial(1, 0.2, 0.21), trial(2, 0.9, 0.91), trial(3))
    assert tuning.best_trial(trials, metric, has_defaults=True).number == best


def test_the_defaults_only_yield_to_what_is_better_by_more_than_chance():
    defaults = trial(0, 1.0, 2.0, 3.0, 4.0)
    by_chance = trial(1, 1.3, 1.6, 3.3, 3.6)
    always = trial(2, 0.98, 1.97, 2.98, 3.97)
    assert tuning.best_trial((defaults, by_chance), "rmse", has_defaults=True) is defaults
    assert tuning.best_trial((defaults, always), "rmse", has_defaults=True) is always
    assert tuning.best_trial((defaults, by_chance), "rmse", has_defaults=False) is by_chance


def test_a_fixed_hyperparameter_is_not_searched():
    space = {"max_depth": IntRange(low=1, high=6), "subsample": FloatRange(low=0, high=1)}
    assert search_space.of(TuneOptions(space=space), TrainOptions().loop, {"subsample": 0.3}) == {
        "max_depth": space["max_depth"]
    }
    assert search_space.of(TuneOptions(space=space), TrainOptions().loop, {"subsample": 0.3, "max_depth": 2}) == {}


@pytest.mark.parametrize("name", ["lambda", "reg_lambda"])
def test_a_fixed_hyperparameter_stays_what_it_is_by_either_of_its_names(name: str, monkeypatch: pytest.MonkeyPatch):
    searched: list[Search] = []

    def run(search: Search, progress: Progress) -> tuple[tuple[Trial, ...], int, dict[int, Exception]]:
        searched.append(search)
        return (trial(0, 1.0),), 0, {}

    monkeypatch.setattr(search, "run", run)
    monkeypatch.setattr(manifest, "load", lambda ref: Dataset.model_construct(uri="d"))
    ref = DatasetRef.model_construct(uri="d", problem="regression")
    for space in (None, {name: FloatRange(low=1, high=2), "eta": FloatRange(low=0, high=1)}):
        train = TrainOptions(hyperparameters={name: 10})
        tuned = tuning._tune(ref, TuneOptions(space=space), train, "t", lambda fraction, message: None)
        assert searched[-1].fixed == {"reg_lambda": 10}
        assert set(searched[-1].space) == ({"learning_rate"} if space else {*xgboost.SPACE} - {"reg_lambda"})
        assert searched[-1].first == {each: xgboost.DEFAULTS[each] for each in searched[-1].space}
        assert training._merged(train, tuned.best.hyperparameters) == {"reg_lambda": 10}
    assert training._merged(TrainOptions(hyperparameters={name: 10}), {"reg_lambda": 3, "eta": 0.1}) == {
        "reg_lambda": 10,
        "learning_rate": 0.1,
    }


def test_two_names_of_a_hyperparameter_are_refused():
    with pytest.raises(
        ParameterError, match=r"^Two names are of the same hyperparameter: eta, learning_rate\. Use one"
    ):
        loop.without_aliases(TrainOptions().loop, {"eta": 0.1, "max_depth": 3, "learning_rate": 0.2})


def test_an_invalid_space_of_a_loop_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xgboost, "SPACE", {"max_depth": {"type": "int", "low": 3}})
    with pytest.raises(
        ParameterError, match=r"SPACE of rayworks.training.loops.xgboost:train, max_depth.int.high \(Field required\)"
    ):
        search_space.of(TuneOptions(), TrainOptions().loop, {})


@pytest.mark.parametrize(
    "dimension",
    [IntRange(low=1, high=5), FloatRange(low=7, high=9), Choice(values=[3])],
    ids=["int", "float", "choice"],
)
def test_defaults_outside_the_search_space_are_not_tried(dimension: IntRange | FloatRange | Choice):
    assert search_space.first_point({"max_depth": dimension}, {"max_depth": 6}) is None


def test_the_fingerprint_depends_on_what_changes_the_model_and_on_nothing_else():
    dataset = DatasetRef(
        uri="/d", fingerprint="f", name="d", target="y", problem="regression", rows_in=1, rows_kept=1, rows_rejected=0
    )
    same = [TrainOptions(), TrainOptions(workers=4), TrainOptions(max_failures=0, checkpoint_seconds=1)]
    other = [TrainOptions(rounds=5), TrainOptions(hyperparameters={"seed": 1})]
    assert len({training.fingerprint(dataset, options) for options in same}) == 1
    assert len({training.fingerprint(dataset, options) for options in [same[0], *other]}) == 3


def test_the_number_of_workers_changes_the_model_of_a_loop_without_a_process_group():
    dataset = DatasetRef(
        uri="/d", fingerprint="f", name="d", target="y", problem="regression", rows_in=1, rows_kept=1, rows_rejected=0
    )
    path = "json:loads"
    assert loop.declarations(path).backend is None
    fingerprints = {training.fingerprint(dataset, TrainOptions(loop=path, workers=workers)) for workers in (1, 4)}
    assert len(fingerprints) == 2


class _Iterable:
    """A context of which ``dict`` makes an empty dictionary: a loop that returns no model."""

    def __init__(self, inner: loop.LoopContext):
        self.target, self.threads = inner.target, inner.threads

    def __iter__(self):
        return iter(())


class _Silent(loop.LoopContext):
    """A context that ignores reports."""

    def __init__(self, other: loop.LoopContext) -> None:
        self.__dict__.update(other.__dict__)

    def report(self, round: int, **facts: object) -> None:
        pass
