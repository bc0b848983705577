"""What tasks request, and whether a node has it. No Ray."""

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


def test_amounts_are_written_for_people():
    assert capacity.amounts({"CPU": 2.0, "memory": 1.5 * 1024**3}) == "2 CPU, 1.5 GiB of memory"
