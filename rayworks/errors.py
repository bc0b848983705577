"""Exceptions made of facts: what is wrong, with which object, what it said, and what to do next."""


class RayworksError(Exception):
    """A failure that the user can act on.

    Args:
        what: What is wrong, as a clause without a full stop: ``"the target column is missing"``.
        where: The object it is about: a URI, a column, a parameter, a pod.
        detail: What that object or the library beneath said, if it helps.
        remedy: What to do next, as an imperative sentence without a full stop.
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

    def __reduce__(self):  # keyword arguments do not survive pickle's default, and errors cross from Ray workers
        return _rebuild, (type(self), self.what, self.where, self.detail, self.remedy)


def _rebuild(kind: type[RayworksError], what: str, where: str, detail: str, remedy: str) -> RayworksError:
    return kind(what, where=where, detail=detail, remedy=remedy)


class ParameterError(RayworksError):
    """A parameter cannot be used: an unknown column, a bad import path, contradicting options."""


class DataError(RayworksError):
    """The data cannot be used: missing, empty, unreadable, all rows invalid, a constant target."""


class StorageError(RayworksError):
    """A place cannot be read or written: absent, forbidden, full, read-only."""


class TrainingError(RayworksError):
    """Training or tuning gave no model."""


class RegistryError(RayworksError):
    """The model registry cannot be reached, or lacks what was asked of it."""


class ServingError(RayworksError):
    """A model could not be served, or did not answer as it must."""


class ClusterError(RayworksError):
    """Ray cannot be started or reached, or its nodes do not fit the driver."""


class ClusterLostError(ClusterError):
    """The Ray that a run worked on is gone. Another one could take its place: what was finished is kept."""


class TransferError(RayworksError):
    """A task, or what it is given, cannot be sent to a worker: it holds a lock, an open file, a connection."""
