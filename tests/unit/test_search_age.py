"""When hyperparameters are searched again."""

from datetime import timedelta

import pytest

from rayworks.training import tuning
from tests import made_up_run


@pytest.mark.parametrize(
    ("age", "days", "loop", "is_due"),
    [
        (29, 30, "loops:train", False),
        (30, 30, "loops:train", True),
        (3000, None, "loops:train", False),
        (0, 0, "loops:train", True),
        (1, 30, "loops:other", True),
    ],
)
def test_a_search_is_due_when_the_last_one_is_too_old_or_for_another_loop(
    age: int, days: float | None, loop: str, is_due: bool
):
    last = made_up_run.tune()
    assert tuning.is_due(last, loop, days, last.ended + timedelta(days=age)) is is_due
    assert tuning.is_due(None, loop, days, last.ended)
