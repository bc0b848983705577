"""Who cannot be sent to another process, and by which variable: Ray's own message tells neither task nor flow."""

import io
from collections.abc import Mapping
from typing import Any

from rayworks.errors import TransferError


def explanation(candidates: Mapping[str, Any], error: Exception) -> TransferError | None:
    """What to say of the first candidate that cannot be pickled; None when all can, and ``error`` is about something else.

    Args:
        candidates: Functions and values by the words for them, such as ``the function of task 'add'``.
        error: What pickle, or Ray, said.
    """
    from ray.util import inspect_serializability

    for words, candidate in candidates.items():
        picklable, failures = inspect_serializability(candidate, name=words, print_file=io.StringIO())
        if picklable:
            continue
        _, *path = next(iter(failures)).path
        return TransferError(
            f"{words} cannot be sent to a worker",
            where=f"its variable {'.'.join(path)}" if path else "",
            detail=_origin(error),
            remedy="Make it within the task, or hand over what it is made from",
        )
    return None


def _origin(error: BaseException) -> str:
    """What pickle said, beneath the pages that Ray adds to it."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
