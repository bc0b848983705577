"""Workers that do not fit their driver are reported before the first task runs."""

import pytest

from rayworks.cluster.preflight import View, check, disagreements
from rayworks.errors import ClusterError

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8", "rayworks": "0.1.0"}
DRIVER = View("the driver", VERSIONS)


def test_workers_with_the_driver_s_versions_fit():
    assert disagreements(DRIVER, [View("one", VERSIONS), View("two", VERSIONS)]) == []
    check(DRIVER, [View("one", VERSIONS)])


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        (View("one", {**VERSIONS, "python": "3.12.1"}), "python is 3.12.1 on one and 3.11.7 on the driver"),
        (View("one", {**VERSIONS, "prefect": ""}), "prefect is not installed on one"),
        (View("one", {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8"}), "rayworks is not installed on one"),
        (
            View("one", VERSIONS, ("the storage s3://b cannot be written",)),
            "the storage s3://b cannot be written on one",
        ),
        (View("one", {}, ("a worker could not start (no space)",)), "a worker could not start (no space) on one"),
    ],
    ids=["another version", "not installed", "unknown to the worker", "unreachable storage", "not started"],
)
def test_each_difference_is_a_sentence_that_names_the_node(worker: View, sentence: str):
    assert disagreements(DRIVER, [View("other", VERSIONS), worker]) == [sentence]


def test_all_differences_are_reported_in_one_error():
    workers = [
        View("one", {**VERSIONS, "ray": "2.59.0"}),
        View("two", VERSIONS, ("the Prefect API cannot be reached",)),
    ]
    with pytest.raises(ClusterError) as error:
        check(DRIVER, workers)
    assert "ray is 2.59.0 on one and 2.60.0 on the driver; the Prefect API cannot be reached on two" in str(error.value)
