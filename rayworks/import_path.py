"""User code by import path: ``module:attribute`` or ``module.attribute``."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from rayworks import code_digest
from rayworks.errors import ParameterError, named


def load(path: str) -> Callable[..., Any]:
    """Import the callable at ``path``.

    The working directory is searched after all installed packages, so that a module beside the user's data is found
    however the run was started.

    Raises:
        ParameterError: The module or the attribute does not exist, fails to import, or is not callable.
    """
    module_name, attribute = _parts(path)
    if not module_name or not attribute:
        raise ParameterError(
            "not an import path", where=repr(path), remedy="Write it as module:function, such as features:add_columns"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # user code: importing it may raise anything
        raise ParameterError(
            "the module could not be imported",
            where=module_name,
            detail=named(error),
            remedy=f"Check the spelling, or that {module_name.partition('.')[0]}.py is in {os.getcwd()} or installed",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
        raise ParameterError(
            f"the module has no function {attribute!r}",
            where=path,
            detail=f"its functions are {', '.join(names) or 'none'}",
            remedy="Name one of them, or add it",
        )
    return function


def fingerprint(path: str) -> str:
    """Return a digest that changes with the code at ``path`` and with all code of the user's own that it imports."""
    function: Any = load(path)
    defining_module = inspect.getmodule(getattr(function, "func", function))  # func: of a functools.partial
    names = {_parts(path)[0], defining_module.__name__} if defining_module else {_parts(path)[0]}
    return code_digest.of_modules(*sorted(names))


def _parts(path: str) -> tuple[str, str]:
    module_name, separator, attribute = path.partition(":")
    if not separator:
        module_name, _, attribute = path.rpartition(".")
    return module_name, attribute
