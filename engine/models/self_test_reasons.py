"""The error message of a failed self-test: what differed and by how much, the likely reason, and what to do."""

import math
import re

from transformers import PretrainedConfig, PreTrainedModel

from engine.compat import attention_of
from engine.errors import first_line

# The subject of the message for each comparison with the class's own forward.
COMPARED = {
    "own": "the class's own forward",
    "causal": "a token followed by others",
    "attention": "this attention",
    "alone": "a sequence alone",
    "packed": "a sequence packed beside another",
    "repeated": "the same pass a second time",
    "decoding": "decoding",
    "decoded": "decoding with a cache",
}
# Parts of the class names of layers with a state; transformers' Conv1D is a linear layer.
STATEFUL_LAYER = re.compile(r"Mamba|Conv1d|ShortConv|Recurr|SSM|Lightning|LinearAtt|DeltaNet|Rwkv|LSTM")


def refusal(model: PreTrainedModel, path: str, what: str, difference: float, error: str, works: list[str]) -> str:
    """Return the error message for a model that fails; `works` are the attention implementations that pass."""
    if math.isnan(difference):
        return f"{path}: the model's outputs are NaN, so its weights are not finite; take another checkpoint"
    found = f"fails ({error})" if error else f"differs by {difference:.2g}"
    attention = attention_of(model)
    start = f"{path}: {COMPARED[what]} {found} under model.attention={attention}"
    advice = way_out(model.config, works, scalar=not model.can_generate())
    return f"{start}, likely because of {likely_reason(model, what)}; {advice}"


def way_out(config: PretrainedConfig, works: list[str], *, scalar: bool = False) -> str:
    """Return what the user can do; `works` are the attention implementations that pass."""
    if works:
        also = " (to train a reward model also reward.share_prompts=false)" if scalar else ""
        return f"set model.attention={works[0]}{also}"
    return f"plumbline cannot train {config.model_type} models, use a base of another family (docs/models.md)"


def short_error(error: Exception) -> str:
    """Return the class and first line of another library's error."""
    return f"{type(error).__name__}: {first_line(error)}"


def likely_reason(model: PreTrainedModel, what: str) -> str:
    """Return the most common reason why a model of this kind differs."""
    config = model.config.get_text_config()
    values = config.to_dict()
    if what == "repeated":
        return "dropout or noise in training under a name that plumbline does not know"
    if what == "causal":
        return "attention to later tokens, as in an encoder"
    if any(STATEFUL_LAYER.search(type(module).__name__) for module in model.modules()):
        return "a state that is carried from token to token (convolution or recurrence)"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return "attention sinks"
    if values.get("alibi") or config.model_type in ("bloom", "mpt"):
        return "ALiBi, an attention bias by distance"
    if values.get("attn_logit_softcapping"):
        return "a cap on attention logits"
    if any(values.get(key) for key in ("sliding_window", "window_size", "attention_chunk_size")):
        return "sliding-window attention"
    return "an unusual attention or head"
