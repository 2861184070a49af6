"""The best checkpoint of a run: the highest value, the earliest of equal ones, never one that is not finite."""

import math

import pytest

from engine.run.best import Best, describe_best, describe_stop

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


@pytest.mark.parametrize(
    ("patience", "best", "counts_from", "ends"),
    [
        (None, 10, 0, []),
        (2, 10, 0, [30]),
        (2, 30, 0, [50]),
        (1, None, 0, [10, 20]),
        (2, 10, 15, [40]),  # the first checkpoint after a value warm-up of 15 steps is that of step 20
        (2, 10, 20, [40]),
    ],
)
def test_the_run_ends_after_as_many_checkpoints_without_a_better_one(patience, best, counts_from, ends):
    made = Best("gold", patience, counts_from, step=best)
    first = min((step for step in range(1, 60) if made.ends_run(step, 10)), default=None)
    assert first == (ends[0] if ends else None)


def test_the_line_about_it():
    assert describe_stop("eval_loss", 40, 20, 2) == (
        "early stopping at step 40: no eval_loss better than that of step 20 in 2 checkpoints"
    )
    assert describe_stop("heldout_score", 20, None, 2) == (
        "early stopping at step 20: no heldout_score finite in 2 checkpoints"
    )
