"""Driver and workers that do not fit each other are told apart before the first task runs."""

import pytest

from rayworks.cluster.preflight import View, check, disagreements
from rayworks.errors import ClusterError

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8", "rayworks": "0.1.0"}
HERE = View("here", VERSIONS)


def test_workers_like_the_driver_are_fine():
    assert disagreements(HERE, [View("one", VERSIONS), View("two", VERSIONS)]) == []
    check(HERE, [View("one", VERSIONS)])


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        (View("one", {**VERSIONS, "python": "3.12.1"}), "python is 3.12.1 on one and 3.11.7 here"),
        (View("one", {**VERSIONS, "prefect": ""}), "prefect is not installed on one"),
        (View("one", {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8"}), "rayworks is not installed on one"),
        (
            View("one", VERSIONS, ("the storage s3://b cannot be written",)),
            "the storage s3://b cannot be written on one",
        ),
        (View("one", {}, ("a worker could not start (no space)",)), "a worker could not start (no space) on one"),
    ],
    ids=["another version", "not installed", "not asked for", "a problem of its own", "no answer"],
)
def test_each_difference_is_a_sentence_with_the_node(worker: View, sentence: str):
    assert disagreements(HERE, [View("fine", VERSIONS), worker]) == [sentence]


def test_everything_that_is_wrong_is_told_at_once():
    workers = [
        View("one", {**VERSIONS, "ray": "2.59.0"}),
        View("two", VERSIONS, ("the Prefect API cannot be reached",)),
    ]
    with pytest.raises(ClusterError) as error:
        check(HERE, workers)
    assert "ray is 2.59.0 on one and 2.60.0 here; the Prefect API cannot be reached on two" in str(error.value)
