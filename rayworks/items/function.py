"""The function that is applied to items: whether it can be called, and what it is made from."""

import inspect
from collections.abc import Callable
from typing import Any, cast

from rayworks import code_digest, import_path, reuse
from rayworks.errors import ParameterError, named
from rayworks.items.options import FanOutOptions


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function for people."""
    return getattr(function, "__qualname__", type(function).__name__)


def is_built(function: Callable[..., Any]) -> bool:
    """Return whether ``function`` is a class whose instances are called with items; others are called themselves."""
    return isinstance(function, type) and any("__call__" in vars(kind) for kind in function.__mro__)


def check_signature(function: Callable[..., Any], name: str, options: FanOutOptions) -> None:
    """Check that the function can be called as the options say.

    Raises:
        ParameterError: It cannot.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions that are written in C have none
        return
    try:
        if is_built(function):
            signature.bind(**options.arguments)
            inspect.signature(cast(Any, function).__call__).bind(None, None)
        else:
            signature.bind(None, **options.arguments)
    except TypeError as error:
        raise ParameterError(
            "the function cannot be called with an item and the arguments",
            where=f"{name}{signature}",
            detail=str(error),
            remedy="It takes an item first, and the arguments by name; a class takes the arguments, its call the item",
        ) from error


def fingerprint(work: Callable[..., Any] | str) -> str:
    """Return text that changes with the code of the function, and with what it has taken from its surroundings.

    Raises:
        ParameterError: It cannot be pickled.
    """
    if isinstance(work, str):
        return import_path.fingerprint(work)
    import cloudpickle

    inner = getattr(work, "func", work)  # of a functools.partial
    module = getattr(inner, "__module__", None) or type(inner).__module__
    surroundings = (
        [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()],
        getattr(work, "args", ()),
        getattr(work, "keywords", {}),
        getattr(inner, "__defaults__", None),
    )
    try:
        cloudpickle.dumps(work)
        held = cloudpickle.dumps(surroundings)
    except Exception as error:  # an object's own code may raise anything
        raise ParameterError(
            "the function cannot be sent to workers",
            where=name_of(inner),
            detail=named(error),
            remedy="Open files and connections within the function, or in a class that is built in each worker",
        ) from error
    code = _code_facts(getattr(inner, "__code__", None))  # in a notebook there is no file
    return reuse.digest(code_digest.of_modules(module), name_of(inner), code, held)


def _code_facts(code: Any) -> tuple[Any, ...]:
    """Return what a code object does, without where its source is."""
    if code is None:
        return ()
    constants = [_code_facts(value) if inspect.iscode(value) else _stable(value) for value in code.co_consts]
    return (code.co_code, constants, code.co_names)


def _stable(value: Any) -> str:
    """Return a constant as text; the order of a set is another in each process."""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
