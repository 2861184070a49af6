"""Choose the transformers class of a checkpoint, and refuse checkpoints by their configuration.

The self-test (engine/models/self_test.py) finds what a configuration does not show.
"""

from typing import cast

from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from engine.errors import RunError
from engine.forward.logprobs import with_logprobs
from engine.forward.scalar_head import scalar_class

# Keys of transformers' configurations that scale or cap a model's logits.
LOGIT_KEYS = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier",
)  # fmt: skip


def causal_class(config: PretrainedConfig, path: str, *, in_4bit: bool) -> type[PreTrainedModel]:
    """Return the class of a causal LM, with log-probabilities added (`with_logprobs`).

    Raises RunError for other kinds of models, quantised weights, and logits that are scaled or capped.
    """
    refuse_quantised(config, path, in_4bit)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise RunError(f"{path} is {kind_of(config)}, not a causal language model; give one of those as the base")
    refuse_unknown_logits(config)
    return with_logprobs(cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]))


def classification_class(config: PretrainedConfig, path: str, *, in_4bit: bool) -> type[PreTrainedModel]:
    """Return the class of a reward model (`scalar_class`).

    Raises RunError if transformers has no sequence classification for this family, and for quantised weights.
    """
    refuse_quantised(config, path, in_4bit)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or config.is_encoder_decoder:
        raise RunError(
            f"{path} is {kind_of(config)}, for which transformers has no sequence classification; a reward model "
            "needs another base"
        )
    return scalar_class(config)


def kind_of(config: PretrainedConfig) -> str:
    """Return the kind of model that a configuration describes, for an error message."""
    if config.is_encoder_decoder:
        return f"an encoder-decoder ({config.model_type})"
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        return f"a multimodal model ({config.model_type})"
    return f"a {config.model_type} model"


def is_foreign_reward_model(config: PretrainedConfig) -> bool:
    """Return whether a checkpoint is a sequence classification model that another tool saved."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def refuse_quantised(config: PretrainedConfig, path: str, in_4bit: bool) -> None:
    """Raise RunError if a checkpoint's weights are quantised; `in_4bit` accepts those of bitsandbytes."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    method = str(getattr(method, "value", method))
    if not (in_4bit and method.startswith("bitsandbytes")):
        raise RunError(
            f"the weights of {path} are stored quantised ({method}), and such weights cannot be trained; give the "
            "unquantised model (to train adapters on it in 4 bits: lora.load_in_4bit=true "
            "lora.merge=false lora.r=64)"
        )


def refuse_unknown_logits(config: PretrainedConfig) -> None:
    """Raise RunError for models that scale or cap their logits: we compute log softmax(head(hidden)) without that."""
    values = config.get_text_config().to_dict()
    for key in LOGIT_KEYS:
        if values.get(key) not in (None, 1.0):
            raise RunError(
                f"{config.model_type} models transform their logits ({key}), which plumbline does not support; use a "
                "base of another family"
            )
