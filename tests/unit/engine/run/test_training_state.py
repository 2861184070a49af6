"""The state objects of a checkpoint are stored by name; missing and unknown names are an error that lists them."""

import pytest
import torch

from engine.dist.sharding import Sharding
from engine.errors import RunError
from engine.run import training_state

NOT_SHARDED = Sharding("none")


class Holder:
    """A state object with some fields."""

    def __init__(self, **fields):
        self.fields = fields

    def state_dict(self):
        return dict(self.fields)

    def load_state_dict(self, state):
        self.fields = dict(state)


def save(folder, **state):
    training_state.save(folder, {}, state, NOT_SHARDED)


def load(folder, **state):
    training_state.load(folder, {}, state, NOT_SHARDED)
    return {name: item.fields for name, item in state.items()}


def test_state_is_read_back_by_name_in_any_order(tmp_path):
    save(tmp_path, kl_coef=Holder(value=0.1), normaliser=Holder(count=3, mean=1.5))
    found = load(tmp_path, normaliser=Holder(count=0, mean=0.0), kl_coef=Holder(value=0.0))
    assert found == {"normaliser": {"count": 3, "mean": 1.5}, "kl_coef": {"value": 0.1}}


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (("normaliser", "pretrain"), "lacks pretrain"),
        ((), "has normaliser, which this run does not know"),
        (("pretrain",), "lacks pretrain and has normaliser, which this run does not know"),
    ],
)
def test_missing_and_unknown_names_are_refused_before_any_state_is_loaded(tmp_path, wanted, problem):
    save(tmp_path, normaliser=Holder(count=3))
    state = {name: Holder(count=0) for name in wanted}
    with pytest.raises(RunError) as error:
        load(tmp_path, **state)
    assert str(error.value) == (
        f"{tmp_path}: its state {problem}; finish the run with the version that started it, or name another run.dir"
    )
    assert all(item.fields == {"count": 0} for item in state.values())


def test_state_without_names_is_assigned_in_order_if_its_fields_match(tmp_path):
    """As in checkpoints of earlier versions."""
    save(tmp_path)
    torch.save([{"count": 3, "mean": 1.5}, {"value": 0.1}], tmp_path / training_state.STATE)
    found = load(tmp_path, normaliser=Holder(count=0, mean=0.0), kl_coef=Holder(value=0.0))
    assert found == {"normaliser": {"count": 3, "mean": 1.5}, "kl_coef": {"value": 0.1}}


@pytest.mark.parametrize("parts", [[{"count": 3}], [{"count": 3}, {"value": 1}, {"position": 2}], [{"count": 3}, {}]])
def test_state_without_names_whose_fields_do_not_match_is_refused(tmp_path, parts):
    save(tmp_path)
    torch.save(parts, tmp_path / training_state.STATE)
    with pytest.raises(RunError) as error:
        load(tmp_path, normaliser=Holder(count=0), kl_coef=Holder(value=0.0))
    assert str(error.value) == (
        f"{tmp_path}: its state has no names and does not fit this run's normaliser, kl_coef; finish the run with the "
        "version that started it, or name another run.dir"
    )
