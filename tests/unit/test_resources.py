"""What a task requests of Ray."""

from typing import Any

import pytest
from prefect import task
from prefect_ray.context import remote_options

from rayworks import resources
from rayworks.capacity import NOT_ON_GPUS
from rayworks.runner.resources import TaskOptions


@pytest.mark.parametrize(
    ("declared", "max_calls"),
    [({}, 0), ({"num_gpus": 1}, 1), ({"num_gpus": 1, "max_calls": 0}, 0), ({"num_gpus": 1, "max_calls": 5}, 5)],
)
def test_a_process_with_a_gpu_serves_one_task_run_unless_the_task_says_otherwise(
    declared: dict[str, Any], max_calls: int
):
    @task
    @resources(**declared)
    def train() -> None: ...

    assert TaskOptions.of(train).max_calls == max_calls


def test_options_around_a_submit_take_precedence_and_limits_of_the_runner_are_not_passed_to_ray():
    @task
    @resources(num_cpus=1, memory=100, max_memory=400)
    def train() -> None: ...

    with remote_options(num_cpus=2):
        options = TaskOptions.of(train)
    expected = {"num_cpus": 2, "memory": 100, "label_selector": NOT_ON_GPUS}
    assert (options.options, options.max_memory) == (expected, 400)


@pytest.mark.parametrize(
    ("declared", "selector"),
    [
        ({}, NOT_ON_GPUS),
        ({"num_gpus": 0}, NOT_ON_GPUS),
        ({"num_gpus": 0.5}, None),
        ({"label_selector": {"disk": "fast"}}, {"disk": "fast"}),
    ],
    ids=["nothing", "no GPU", "a part of a GPU", "its own nodes"],
)
def test_a_task_that_requests_no_gpu_stays_off_the_nodes_that_are_reserved_for_gpus(
    declared: dict[str, Any], selector: dict[str, str] | None
):
    @task
    @resources(**declared)
    def train() -> None: ...

    assert TaskOptions.of(train).options.get("label_selector") == selector
