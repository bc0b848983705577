"""The search space of hyperparameters: what to search, where to start, and Optuna's distributions."""

from collections.abc import Mapping
from typing import Any

from rayworks.errors import ParameterError
from rayworks.params import Choice, FloatRange, SearchDimension, TuneOptions
from rayworks.training import loop as loops

Space = Mapping[str, SearchDimension]


def of(options: TuneOptions, loop: str, fixed: Mapping[str, Any]) -> Space:
    """Return the space to search: that of the options, else that of the loop's module, without what is ``fixed``.

    Args:
        options: Of tuning.
        loop: Import path of the training loop.
        fixed: Hyperparameters, not by their aliases.

    Raises:
        ParameterError: The loop does not exist, or its module declares an invalid space, or a hyperparameter is in the
            space by two names.
    """
    space = loops.declarations(loop).space if options.space is None else options.space
    return {name: each for name, each in loops.without_aliases(loop, space).items() if name not in fixed}


def first_point(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the defaults as the first trial, so that tuning never does worse; None if they are not in the space."""
    is_inside = all(name in defaults and _contains(dimension, defaults[name]) for name, dimension in space.items())
    return {name: defaults[name] for name in space} if is_inside else None


def _contains(dimension: SearchDimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    return dimension.low <= value <= dimension.high


def distributions(space: Space) -> dict[str, Any]:
    """Return the space as Optuna's distributions.

    Raises:
        ParameterError: A range is empty.
    """
    return {name: _distribution(name, dimension) for name, dimension in space.items()}


def _distribution(name: str, dimension: SearchDimension) -> Any:
    from optuna import distributions

    if isinstance(dimension, Choice):
        return distributions.CategoricalDistribution(dimension.values)
    if dimension.low >= dimension.high or (dimension.log and dimension.low <= 0):
        raise ParameterError(
            "the search range is empty",
            where=f"tune.space.{name}",
            detail=f"from {dimension.low:g} to {dimension.high:g}{', logarithmic' if dimension.log else ''}",
            remedy="Set low below high, above 0 if log",
        )
    if isinstance(dimension, FloatRange):
        return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return distributions.IntDistribution(dimension.low, dimension.high, log=dimension.log)
