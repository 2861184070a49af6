"""What a failed self-test says: what differed and by how much, the likely reason, and the way out."""

import re

from transformers import PretrainedConfig, PreTrainedModel

from engine.errors import first_line

# What is compared with the class's own forward.
WHAT = {
    "own": "the class's own forward",
    "causal": "a token, when others follow it,",
    "attention": "this attention",
    "alone": "a sequence alone",
    "packed": "a sequence packed beside another",
    "repeated": "the same pass a second time",
    "decoding": "decoding",
    "decoded": "decoding with a cache",
}
# Parts of classes' names; transformers' own Conv1D is a linear layer.
STATES = re.compile(r"Mamba|Conv1d|ShortConv|Recurr|SSM|Lightning|LinearAtt|DeltaNet|Rwkv|LSTM")


def refusal(model: PreTrainedModel, path: str, what: str, difference: float, error: str, works: list[str]) -> str:
    """Return the line with which a model is refused; `works` are the attention implementations that pass."""
    found = f"fails ({error})" if error else f"differs by {difference:.2g}"
    attention = model.config._attn_implementation
    start = f"{path}: {WHAT[what]} {found} under model.attention={attention}, likely by {likely_reason(model, what)}"
    return f"{start}; {way_out(model.config, works, scalar=not model.can_generate())}"


def way_out(config: PretrainedConfig, works: list[str], *, scalar: bool = False) -> str:
    """Return what to do; `works` are the attention implementations under which the model passes."""
    if works:
        also = " (to train a reward model also reward.share_prompts=false)" if scalar else ""
        return f"set model.attention={works[0]}{also}"
    return f"plumbline cannot train {config.model_type} models, take a base of another family (docs/models.md)"


def named(error: Exception) -> str:
    """Return another library's error in a few words."""
    return f"{type(error).__name__}: {first_line(error)}"


def likely_reason(model: PreTrainedModel, what: str) -> str:
    """Return what most often makes a model of this kind differ."""
    config = model.config.get_text_config()
    values = config.to_dict()
    if what == "repeated":
        return "dropout or noise in training under a name that is not known here"
    if what == "causal":
        return "attention to later tokens, as encoders have it"
    if any(STATES.search(type(module).__name__) for module in model.modules()):
        return "a state that runs on from token to token (convolution or recurrence)"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return "attention sinks"
    if values.get("alibi") or config.model_type in ("bloom", "mpt"):
        return "ALiBi, a bias of attention by distance"
    if values.get("attn_logit_softcapping"):
        return "a cap on attention's logits"
    if any(values.get(key) for key in ("sliding_window", "window_size", "attention_chunk_size")):
        return "attention in a window"
    return "attention or a head of its own kind"
