"""Which lines of Ray's log stream belong in the log of a flow run."""

from rayworks.runner.nested_output import log_lines


def test_that_a_worker_was_killed_is_told_and_rays_advice_on_its_settings_is_not():
    killed = "1 Workers (tasks / actors) killed due to memory pressure (OOM) at node (IP: 10.0.0.1)."
    advice = "Refer to the documentation on how to address the out of memory issue: https://docs.ray.io"
    lines = [f"{killed} To see more information about the Workers killed on this node, use `ray logs`", "", advice]
    assert log_lines({"pid": "raylet", "lines": lines}, set()) == [f"(ray pid=raylet) {killed}"]
