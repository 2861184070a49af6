"""Which of transformers' classes a checkpoint is loaded as, and which checkpoints are refused by their configuration.

What a configuration does not show is found by the self-test (engine/models/self_test.py).
"""

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from engine.errors import RunError
from engine.forward.logprobs import with_logprobs
from engine.forward.scalar_head import scalar_class

# Keys by which models scale or cap their logits, in the names that transformers' configurations have for it.
LOGIT_KEYS = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier",
)  # fmt: skip


def causal_class(config: PretrainedConfig, path: str, *, in_4bit: bool) -> type[PreTrainedModel]:
    """Return the class of a causal LM, with our log-probabilities; RunError where there is none that can be trained."""
    refuse_quantised(config, path, in_4bit)
    if type(config) not in AutoModelForCausalLM._model_mapping or config.is_encoder_decoder:
        raise RunError(f"{path} is {kind_of(config)}, not a causal language model; give one of those as the base")
    refuse_unknown_logits(config)
    return with_logprobs(AutoModelForCausalLM._model_mapping[type(config)])


def classification_class(config: PretrainedConfig, path: str, *, in_4bit: bool) -> type[PreTrainedModel]:
    """Return the class of a reward model; RunError where transformers has none for this family."""
    refuse_quantised(config, path, in_4bit)
    if type(config) not in AutoModelForSequenceClassification._model_mapping or config.is_encoder_decoder:
        raise RunError(
            f"{path} is {kind_of(config)}, for which transformers has no sequence classification; a reward model "
            "needs another base"
        )
    return scalar_class(config)


def kind_of(config: PretrainedConfig) -> str:
    """Return what a configuration describes, for an error message."""
    if config.is_encoder_decoder:
        return f"an encoder-decoder ({config.model_type})"
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        return f"a multimodal model ({config.model_type})"
    return f"a {config.model_type} model"


def is_foreign_reward_model(config: PretrainedConfig) -> bool:
    """Return whether a checkpoint is a sequence classification that another tool wrote."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def refuse_quantised(config: PretrainedConfig, path: str, in_4bit: bool) -> None:
    """Raise RunError for a checkpoint whose weights are stored quantised; bitsandbytes' own load under `in_4bit`."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    method = str(getattr(method, "value", method))
    if not (in_4bit and method.startswith("bitsandbytes")):
        raise RunError(
            f"the weights of {path} are stored quantised ({method}), and such weights cannot be trained; give the "
            "model that they were made from (to train adapters on it in 4 bits: lora.load_in_4bit=true "
            "lora.merge=false lora.r=64)"
        )


def refuse_unknown_logits(config: PretrainedConfig) -> None:
    """Raise RunError for models that scale or cap their logits: our log-probabilities are softmax(head(hidden))."""
    values = config.get_text_config().to_dict()
    for key in LOGIT_KEYS:
        if values.get(key) not in (None, 1.0):
            raise RunError(
                f"{config.model_type} models transform their logits ({key}), which plumbline does not do yet; take a "
                "base of another family"
            )
