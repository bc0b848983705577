"""Exceptions with structured facts: what is wrong, with which object, the detail, and what to do next."""

import traceback


class RayworksError(Exception):
    """Base class of failures that the user can act on.

    Args:
        what: What is wrong, as a clause without a full stop: ``"the target column is missing"``.
        where: The object concerned: a URI, a column, a parameter, a pod.
        detail: The message of that object or of the underlying library, if it helps.
        remedy: What to do next, as an imperative sentence without a full stop, or a question.
    """

    def __init__(self, what: str, *, where: str = "", detail: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.detail, self.remedy = what, where, detail, remedy

    def __str__(self) -> str:
        sentence = self.what[:1].upper() + self.what[1:]
        if self.where:
            sentence += f": {self.where}"
        if self.detail:
            sentence += f" ({self.detail.strip().rstrip('.')})"
        remedy = self.remedy if self.remedy.endswith("?") else f"{self.remedy}."
        return f"{sentence}. {remedy}" if self.remedy else f"{sentence}."

    def __reduce__(self):  # pickle's default drops keyword arguments, and errors are sent from Ray workers
        return _rebuild, (type(self), self.what, self.where, self.detail, self.remedy)


def _rebuild(kind: type[RayworksError], what: str, where: str, detail: str, remedy: str) -> RayworksError:
    return kind(what, where=where, detail=detail, remedy=remedy)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """Return the class of an error and the first line of its message: ``KeyError: 'fare'``."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


TASK_NOTE = "In task "


def note_task(error: BaseException, task: str) -> None:
    """Note in an error which task raised it, and the traceback: pickle keeps notes, but no traceback."""
    error.add_note(f"{TASK_NOTE}{task}\n{''.join(traceback.format_exception(error))}")


def noted_tasks(error: BaseException) -> list[str]:
    """Return the tasks that raised an error, the innermost first, if they were noted."""
    first_lines = [note.partition("\n")[0] for note in getattr(error, "__notes__", ())]
    return [line.removeprefix(TASK_NOTE) for line in first_lines if line.startswith(TASK_NOTE)]


class ParameterError(RayworksError):
    """A parameter is invalid: an unknown column, a bad import path, contradicting options."""


class DataError(RayworksError):
    """The data cannot be used: missing, empty, unreadable, all rows rejected, a constant target."""


class StorageError(RayworksError):
    """A URI cannot be read or written: not found, forbidden, disk full, read-only."""


class ItemsError(RayworksError):
    """Items of a fan-out failed, more than are allowed. The results of the others are stored."""


class TrainingError(RayworksError):
    """Training or tuning did not produce a model."""


class RegistryError(RayworksError):
    """The model registry cannot be reached, or does not have the requested model."""


class ServingError(RayworksError):
    """A model could not be served, or its responses are wrong."""


class ClusterError(RayworksError):
    """Ray cannot be started or reached, or its nodes are incompatible with the driver."""


class ClusterLostError(ClusterError):
    """The run lost its Ray cluster. It can restart on another one: finished stages are reused."""


class TransferError(RayworksError):
    """A task, its arguments or its error cannot be pickled: they hold a lock, an open file, a connection."""


class MissingExtraError(RayworksError, ImportError):
    """An optional dependency is not installed."""
