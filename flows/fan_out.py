"""Apply a function to many items."""

from typing import Annotated

from prefect import flow

from rayworks import FanOutResult, RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.items.options import FanOutOptions, Function, Items
from tasks.fan_out import fan_out as fan_out_task


@flow(name="fan_out", task_runner=RayTaskRunner())
def fan_out(
    function: Function,
    items: Items,
    options: Annotated[FanOutOptions, parameter("Options")] = FanOutOptions(),
) -> FanOutResult:
    """Apply a function to each of many items. The same parameters continue a run that was stopped."""
    return fan_out_task.submit(function, items, options).result()


if __name__ == "__main__":
    run(fan_out)
