"""How a stage reports its progress without knowing the listener."""

import contextlib
import sys
from collections.abc import Generator
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


@contextlib.contextmanager
def shown() -> Generator[Progress]:
    """Show the progress that is reported within the block: a bar in a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("", total=1.0)
        yield lambda fraction, message: bars.update(bar, completed=fraction, description=message)
