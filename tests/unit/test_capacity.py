"""What tasks request, and whether a node has it. No Ray."""

import pytest

from rayworks import capacity

NODES = [{"CPU": 2.0, "memory": 4.0 * 1024**3}, {"CPU": 4.0}]


def test_requests_are_named_as_ray_names_them():
    assert capacity.requests_of({}) == {"CPU": 1.0}
    options = {"num_cpus": 0, "num_gpus": 0.5, "memory": 10, "resources": {"tpu": 1}}
    assert capacity.requests_of(options) == {"GPU": 0.5, "memory": 10.0, "tpu": 1.0}


def test_a_request_fits_only_where_one_node_has_all_of_it():
    assert capacity.fits({"CPU": 4.0}, NODES)
    assert not capacity.fits({"CPU": 4.0, "memory": 1.0}, NODES)
    assert not capacity.fits({"CPU": 6.0}, NODES)
    assert capacity.fits({}, NODES)


def test_workers_are_told_which_nodes_may_be_added(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(capacity.GROWS, raising=False)
    assert (capacity.nodes_to_come(), capacity.may_grow()) == ([], False)
    for nodes, may_grow in ((NODES, True), (None, True), ([], False)):
        monkeypatch.setenv(capacity.GROWS, capacity.growth_variable(nodes)[capacity.GROWS])
        assert (capacity.nodes_to_come(), capacity.may_grow()) == (nodes, may_grow)


def test_a_node_comes_for_what_a_kind_of_node_has_and_for_anything_where_the_kinds_are_not_known():
    assert capacity.may_come({"CPU": 4.0}, NODES)
    assert not capacity.may_come({"CPU": 8.0}, NODES)
    assert not capacity.may_come({"CPU": 1.0}, [])
    assert capacity.may_come({"CPU": 8.0}, None)


def test_nodes_that_are_kept_for_gpus_come_only_for_them():
    kept = [{"CPU": 8.0, "GPU": 1.0, "rayworks.io/gpu": 1.0}]
    assert not capacity.may_come({"CPU": 8.0}, kept)
    assert capacity.may_come({"CPU": 8.0, "GPU": 1.0}, kept)


def test_a_shortage_is_what_the_nodes_have_of_what_is_requested():
    assert capacity.shortage({"CPU": 4.0}, NODES, []) == ""
    assert capacity.shortage({"CPU": 8.0}, NODES, [{"CPU": 8.0}]) == capacity.shortage({"CPU": 8.0}, NODES, None) == ""
    assert capacity.shortage({"CPU": 8.0}, NODES, [{"CPU": 6.0}]) == "2 CPU; 4 CPU; 6 CPU"
    assert capacity.shortage({"GPU": 1.0}, NODES, []) == "none of it"
    assert capacity.shortage({"CPU": 8.0}, [], []) == "there are none"


def test_amounts_are_written_for_people():
    assert capacity.amounts({"CPU": 2.0, "memory": 1.5 * 1024**3}) == "2 CPU, 1.5 GiB of memory"
