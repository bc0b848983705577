"""How a stage reports its progress without knowing the listener."""

from typing import Protocol


class Progress(Protocol):
    """A callback for the progress of a stage. Cheap to call often: the listener decides what to show."""

    def __call__(self, fraction: float, message: str) -> None:
        """Report progress.

        Args:
            fraction: Share of the stage's work that is done, 0 to 1.
            message: What the stage is doing.
        """
        ...


def silent(fraction: float, message: str) -> None:
    """Ignore progress."""
