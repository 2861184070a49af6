"""Generation configs that transformers loads but refuses to save are corrected or refused at load."""

import json

import pytest
from transformers import GenerationConfig

from config.sections import Model
from engine.errors import RunError
from engine.models.loading import load_causal
from engine.models.saving import save_model
from tests.support.small_models import small_model
from tests.support.tokenizers import qwen


def load_with(folder, **generation):
    small_model(vocab_size=len(qwen())).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return load_causal(str(folder), Model(path=str(folder)), qwen(), trained=True)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": False}),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {}),
        ({"num_beams": 1, "early_stopping": True}, {"num_beams": 1}),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
    ],
)
def test_settings_without_effect_are_unset_at_load(tmp_path, given, kept):
    save_model(load_with(tmp_path / "base", **given), qwen(), tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out").to_diff_dict()
    ends = {"eos_token_id": [422, 420], "pad_token_id": 420}
    assert {k: v for k, v in found.items() if k != "transformers_version" and v is not None} == {**kept, **ends}


def test_a_config_that_cannot_be_saved_is_refused_and_the_advice_works(tmp_path):
    with pytest.raises(RunError) as error:
        load_with(tmp_path / "base", num_return_sequences=3)
    assert str(error.value) == (
        f"the generation_config.json of {tmp_path / 'base'} is invalid (Greedy methods (do_sample != True) without "
        "beam search do not support `num_return_sequences` different than 1 (got 3)), and no checkpoint could be saved "
        "with it; correct the file, or delete it"
    )
    (tmp_path / "base" / "generation_config.json").unlink()
    load_causal(str(tmp_path / "base"), Model(path=""), qwen(), trained=True)
