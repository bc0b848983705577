"""Which lines of Ray's log stream belong in the log of a flow run."""

from rayworks.runner.nested_output import HELD_TEXT, log_lines


def test_that_a_worker_was_killed_is_told_and_rays_advice_on_its_settings_is_not():
    killed = "1 Workers (tasks / actors) killed due to memory pressure (OOM) at node (IP: 10.0.0.1)."
    advice = "Refer to the documentation on how to address the out of memory issue: https://docs.ray.io"
    lines = [f"{killed} To see more information about the Workers killed on this node, use `ray logs`", "", advice]
    assert log_lines({"pid": "raylet", "lines": lines}, set()) == [f"(ray pid=raylet) {killed}"]


def test_what_a_task_that_holds_the_gil_cannot_log_is_told_and_other_lines_stay_as_they_are():
    stack = ["Timeout (0:05:00)!", "Thread 0x00007f (most recent call first):", '  File "a.py", line 3 in work']
    batch = {"pid": 7, "task_name": "work", "lines": ["a line of the task", *stack]}
    assert log_lines(batch, {"work"}) == [f"(work pid=7) {line}" for line in (HELD_TEXT, *stack[1:])]
    own = ["Timeout (30 s), trying again", "Timeout (0:05:00)! says the server"]
    assert log_lines(batch | {"lines": own}, set()) == [f"(work pid=7) {line}" for line in own]
