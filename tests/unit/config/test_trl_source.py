"""Fields and choices read from the source of TRL's configuration classes equal those of the imported classes."""

import dataclasses

import pytest

from config.trl_source import trl_choices, trl_fields


@pytest.mark.parametrize("name", ["SFTConfig", "RewardConfig"])
def test_fields_equal_those_of_the_imported_class(name):
    import trl

    assert set(trl_fields(name)) == {field.name for field in dataclasses.fields(getattr(trl, name))}


def test_choices_equal_transformers_enumerations():
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    for name in ("SFTConfig", "RewardConfig"):
        found = trl_choices(name)
        assert found["lr_scheduler_type"] == [each.value for each in SchedulerType]
        assert found["optim"] == [each.value for each in OptimizerNames]
    assert trl_choices("SFTConfig")["loss_type"] == ["nll", "dft", "chunked_nll"]
