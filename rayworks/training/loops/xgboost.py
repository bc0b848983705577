# pyright: reportUnknownMemberType=false, reportUntypedBaseClass=false, reportAttributeAccessIssue=false
# XGBoost's callbacks have no types.
"""The built-in training loop: gradient-boosted trees by XGBoost, data-parallel over the workers.

It uses only the ``TrainContext``, as a user's own loop does.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks.errors import ParameterError
from rayworks.metrics import METRICS
from rayworks.models.contract import TrainContext
from rayworks.models.xgboost import XGBoostModel, kinds, numbers
from rayworks.records import Problem

if TYPE_CHECKING:
    import xgboost as xgb

OBJECTIVES: dict[Problem, tuple[str, ...]] = {
    "regression": (
        "reg:squarederror",
        "reg:squaredlogerror",
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "reg:quantileerror",
        "reg:gamma",
        "reg:tweedie",
        "reg:logistic",
        "count:poisson",
    ),
    "binary": ("binary:logistic", "reg:logistic"),
    "multiclass": ("multi:softprob",),
}
"""The objectives whose predictions are amounts or probabilities, the default first. Others give scores or labels."""
EVALUATION_METRICS: dict[tuple[Problem, str], str] = {
    ("regression", "rmse"): "rmse",
    ("binary", "log_loss"): "logloss",
    ("binary", "roc_auc"): "auc",
    ("multiclass", "log_loss"): "mlogloss",
}
"""XGBoost's name of the metric to report, by problem and ``TrainContext.metric``."""
# https://xgboost.readthedocs.io/en/stable/parameter.html; XGBoost itself only warns of a misspelt one
HYPERPARAMETERS = frozenset(
    """
    eta learning_rate gamma min_split_loss max_depth min_child_weight max_delta_step subsample sampling_method
    colsample_bytree colsample_bylevel colsample_bynode lambda reg_lambda alpha reg_alpha scale_pos_weight
    grow_policy max_leaves max_bin num_parallel_tree max_cat_to_onehot max_cat_threshold objective seed device
    tree_method base_score huber_slope quantile_alpha tweedie_variance_power
    """.split()  # noqa: SIM905 - as a list it would take thirty lines
)
BACKEND = "xgboost"
ALIASES = {"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "min_split_loss": "gamma"}
"""Other names that XGBoost has for the same hyperparameter."""
# Better than XGBoost's own on most data sets of benchmarks/quality.py. Small steps cost only time: early stopping finds
# how many there should be. The rows that each tree leaves out keep the trees from agreeing on noise. A split that may
# put any of 64 categories to either side, as by XGBoost's default, fits noise, and most of all since XGBoost 3.4, which
# also tells rare ones apart (https://github.com/dmlc/xgboost/pull/12296); so does a leaf of a single row.
DEFAULTS = {
    "learning_rate": 0.05,
    "max_depth": 5,
    "min_child_weight": 4.0,
    "subsample": 0.8,
    "reg_lambda": 5.0,
    "max_cat_threshold": 4,
}
# The hyperparameters that matter most for boosted trees, around the defaults. Not the learning rate: a smaller one is
# hardly ever worse, and takes more time. Not the columns that a tree leaves out: where the future is not like the past,
# it may be the one column that tells, and folds of the past cannot know.
SPACE = {
    "max_depth": {"type": "int", "low": 3, "high": 9},
    "min_child_weight": {"type": "float", "low": 0.5, "high": 30, "log": True},
    "subsample": {"type": "float", "low": 0.6, "high": 1.0},
    "reg_lambda": {"type": "float", "low": 0.3, "high": 20, "log": True},
    "max_cat_threshold": {"type": "int", "low": 2, "high": 32, "log": True},
}


def train(context: TrainContext) -> XGBoostModel:
    """Boost until the maximum of rounds, or until validation has not improved for the patience.

    Raises:
        ParameterError: XGBoost does not know a hyperparameter or refuses its value, or the workers are not connected.
    """
    import xgboost as xgb

    if context.world_size > 1 and not xgb.collective.is_distributed():
        raise ParameterError(
            "the workers are not connected, each would train on its shard alone",
            where="BACKEND of the training loop's module",
            remedy='Declare BACKEND = "xgboost" in the module whose loop calls this one',
        )
    parameters = _parameters(context)
    checkpoint = _restored(context)
    try:
        matrices = _matrices(context, int(parameters.get("max_bin", 256)))
        rounds_done = checkpoint.num_boosted_rounds() if checkpoint else 0
        reporting = _Reporting(context, checkpoint)
        booster = xgb.train(
            parameters,
            matrices[0],
            num_boost_round=context.rounds - rounds_done,
            xgb_model=checkpoint,
            evals=[(matrices[0], "train"), (matrices[1], "validation")],
            verbose_eval=False,
            callbacks=[reporting.callback],
        )
    except xgb.core.XGBoostError as error:
        raise ParameterError(
            "XGBoost refused to train",
            where=json.dumps(context.hyperparameters),
            detail=_message(error),
            remedy="Check the values of the hyperparameters",
        ) from error
    names = [feature.name for feature in context.features]
    return XGBoostModel(booster[: reporting.best_round], context.target.problem, names)


def _message(error: Exception) -> str:
    """Return XGBoost's message without the stack trace and the place in its code."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("Stack trace", "  ["))]
    return lines[0].rpartition(": ")[2] if lines else str(error)


def _parameters(context: TrainContext) -> dict[str, Any]:
    unknown = sorted(set(context.hyperparameters) - HYPERPARAMETERS)
    if unknown:
        raise ParameterError(
            "XGBoost has no such hyperparameter",
            where=", ".join(unknown),
            remedy=f"Use {', '.join(sorted(HYPERPARAMETERS))}",
        )
    problem = context.target.problem
    objective = context.hyperparameters.get("objective", OBJECTIVES[problem][0])
    if objective not in OBJECTIVES[problem]:
        raise ParameterError(
            f"the objective does not predict {'amounts' if problem == 'regression' else 'probabilities'}",
            where=str(objective),
            remedy=f"Use {' or '.join(OBJECTIVES[problem])}",
        )
    ours = {
        "objective": objective,
        "eval_metric": EVALUATION_METRICS[problem, context.metric],
        "tree_method": "hist",
    }
    classes = {"num_class": len(context.target.classes)} if problem == "multiclass" else {}
    chosen = {ALIASES.get(name, name): value for name, value in context.hyperparameters.items()}
    return {**ours, **classes, **DEFAULTS, **chosen, "nthread": context.threads}


def _restored(context: TrainContext) -> "xgb.Booster | None":
    import xgboost as xgb

    folder = context.restore()
    return xgb.Booster(model_file=folder / "booster.ubj") if folder else None


def _matrices(context: TrainContext, max_bin: int) -> "tuple[xgb.QuantileDMatrix, xgb.QuantileDMatrix]":
    """Return training and validation rows, quantised batch by batch: a byte per value, never all as floats."""
    import xgboost as xgb

    class Batches(xgb.DataIter):
        def __init__(self, split: Any) -> None:
            self.split, self.rows = split, iter(())
            super().__init__()

        def next(self, input_data: Callable[..., Any]) -> bool:
            batch: Any = next(self.rows, None)
            if batch is None:
                return False
            input_data(data=numbers(batch[0]), feature_types=kinds(batch[0]), label=batch[1])
            return True

        def reset(self) -> None:
            self.rows: Iterator[Any] = context.batches(self.split)

    settings = {"nthread": context.threads, "enable_categorical": True, "max_bin": max_bin}
    train = xgb.QuantileDMatrix(Batches("train"), **settings)
    return train, xgb.QuantileDMatrix(Batches("validation"), ref=train, **settings)


class _Reporting:
    """Report each round to the context, and stop when validation no longer improves."""

    def __init__(self, context: TrainContext, checkpoint: "xgb.Booster | None") -> None:
        import xgboost as xgb

        self.context, self.metric = context, METRICS[context.metric]
        self.round = checkpoint.num_boosted_rounds() if checkpoint else 0
        self.best_round = int(checkpoint.attr("best_round") or 0) if checkpoint else 0
        self.best = float((checkpoint.attr("best") if checkpoint else None) or self.metric.worst)
        reporting = self

        class Callback(xgb.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                return reporting.after_round(model, evals_log)

        self.callback = Callback()

    def after_round(self, model: "xgb.Booster", history: Any) -> bool:
        """Report a round, and return whether to stop."""
        self.round += 1
        values = {split: float(next(iter(by_metric.values()))[-1]) for split, by_metric in history.items()}
        if self.metric.is_better(values["validation"], self.best):
            self.best, self.best_round = values["validation"], self.round
            model.set_attr(best_round=str(self.best_round), best=repr(self.best))

        def save(folder: Path) -> None:
            model.save_model(folder / "booster.ubj")

        self.context.report(self.round, validation=values["validation"], train=values["train"], save=save)
        return self.round - self.best_round >= self.context.early_stopping_rounds
