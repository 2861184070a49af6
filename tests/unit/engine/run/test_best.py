"""The best checkpoint of a run: the highest value, the earliest of equal ones, never one that is not finite."""

import math

import pytest

from engine.run.best import Best, describe_best

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([1.0, 3.0, 2.0], 2),
        ([1.0, 2.0, 3.0], 3),
        ([-3.0, -1.0, -2.0], 2),
        ([2.0, 5.0, 5.0], 2),
        ([NAN, 1.0, NAN], 2),
        ([1.0, NAN, 0.5], 1),
        ([NAN, NAN], None),
        ([-math.inf, NAN], None),
        ([], None),
    ],
)
def test_the_step_with_the_highest_finite_value_is_chosen(values, step):
    best = Best("gold")
    for at, value in enumerate(values, 1):
        best.compare(at, value)
    assert best.step == step
    assert best.measured == len(values)


def test_the_best_step_is_resumed_from_its_state():
    values = [0.5, 2.5, 2.5, 1.0]
    whole, first, second = Best("gold"), Best("gold"), Best("gold")
    for at, value in enumerate(values, 1):
        whole.compare(at, value)
        if at <= 2:
            first.compare(at, value)
    second.load_state_dict(first.state_dict())
    for at in (3, 4):
        second.compare(at, values[at - 1])
    assert second == whole
    assert second.as_dict() == {"step": 2, "metric": "gold", "value": 2.5, "measured": 4}
    assert describe_best(second.as_dict()) == "step 2, the best of 4 by gold (2.5)"
