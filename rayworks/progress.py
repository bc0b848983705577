"""How a stage tells how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called by a stage as it goes on; cheap to call often, the listener decides what to show."""

    def __call__(self, fraction: float, message: str) -> None:
        """Args: ``fraction`` of the stage's work that is done, 0 to 1; ``message`` says what is being done."""
        ...


def silent(fraction: float, message: str) -> None:
    """The listener of nobody."""
