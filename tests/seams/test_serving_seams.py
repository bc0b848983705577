"""What rayworks uses of Ray Serve beyond its public API, on a real Ray Serve."""

import time

import pytest

from rayworks.free_port import free_port
from rayworks.serving import _private

LOG_STREAM_SECONDS = 2
"""How long Ray takes at most to show a message of the raylet on the driver's terminal."""


@pytest.fixture
def no_serve(ray_session):
    """Ray without Serve, before and after the test."""
    from ray import serve

    serve.shutdown()
    yield
    serve.shutdown()


def test_only_the_head_node_has_the_resource_that_places_a_task_on_it(ray_session):
    import ray

    [node] = ray.nodes()
    assert node["Resources"][_private.HEAD_NODE_RESOURCE] == 1


def test_the_address_of_serve_is_known_while_it_runs_and_its_shutdown_prints_no_error(
    no_serve, capfd: pytest.CaptureFixture[str]
):
    from ray import serve

    assert _private.http_address() is None
    for port in (free_port(), free_port()):  # the second time, the first Serve must be forgotten
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        assert _private.http_address() == ("127.0.0.1", port)
        capfd.readouterr()
        assert _private.shut_down(timeout_seconds=30)
        assert _private.http_address() is None
    time.sleep(LOG_STREAM_SECONDS)
    output = "".join(capfd.readouterr())
    assert "graceful_shutdown" not in output
    assert "(raylet)" not in output


def test_to_shut_down_serve_where_none_runs_does_nothing(no_serve):
    assert _private.shut_down(timeout_seconds=1)
