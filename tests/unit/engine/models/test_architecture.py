"""Models that cannot be trained are refused by their configuration, in one line."""

import json

import pytest
from transformers import (
    BartConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2VLConfig,
    T5Config,
    WhisperConfig,
)

from config import load
from config.sections import Model
from engine.errors import RunError
from engine.models.architecture import causal_class, classification_class
from engine.models.loading import load_causal
from sft.recipe import SFT
from tests.support.small_models import small_config
from tests.support.tokenizers import qwen


def refusal(config, make=causal_class, in_4bit=False):
    with pytest.raises(RunError) as error:
        make(config, "there", in_4bit=in_4bit)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (T5Config, "an encoder-decoder (t5)"),
        (BartConfig, "an encoder-decoder (bart)"),
        (WhisperConfig, "an encoder-decoder (whisper)"),
        (Qwen2VLConfig, "a multimodal model (qwen2_vl)"),
    ],
)
def test_models_that_are_not_causal_language_models_are_refused(config, kind):
    message = f"there is {kind}, not a causal language model; give one of those as the base"
    assert refusal(config()) == message


def test_a_family_without_sequence_classification_is_refused_as_a_reward_model():
    class OddConfig(PretrainedConfig):
        model_type = "odd"

    assert refusal(OddConfig(), classification_class) == (
        "there is a odd model, for which transformers has no sequence classification; a reward model needs another base"
    )
    assert classification_class(GPTNeoXConfig(), "there", in_4bit=False).__name__ == "GPTNeoXForSequenceClassification"


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
@pytest.mark.parametrize("in_4bit", [False, True])
def test_quantised_weights_are_refused_and_the_advice_works(tmp_path, method, in_4bit):
    """Also with load_in_4bit, which would otherwise report that bitsandbytes is missing."""
    values = small_config(vocab_size=len(qwen())).to_dict() | {
        "quantization_config": {"quant_method": method, "bits": 4}
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(RunError) as error:
        load_causal(str(tmp_path), Model(path=str(tmp_path)), qwen(), trained=True, in_4bit=in_4bit)
    assert str(error.value) == (
        f"the weights of {tmp_path} are stored quantised ({method}), and such weights cannot be trained; give the "
        "unquantised model (to train adapters on it in 4 bits: lora.load_in_4bit=true "
        "lora.merge=false lora.r=64)"
    )
    (tmp_path / "sft.yaml").write_text("stage: sft\nmodel: {path: m}\ndata: {train: t}\nrun: {dir: r}\n")
    advice = str(error.value).partition("in 4 bits: ")[2].rstrip(")")
    assert load(SFT, tmp_path / "sft.yaml", advice.split()).lora.load_in_4bit


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale"])
def test_scaled_or_capped_logits_are_refused_under_any_key(key):
    assert refusal(LlamaConfig(**{key: 30.0})) == (
        f"llama models transform their logits ({key}), which plumbline does not support; use a base of another family"
    )
    causal_class(LlamaConfig(**{key: None}), "there", in_4bit=False)
