"""Models and tokenizers from a folder or a hub id, to be trained or frozen, and their folders written whole.

Trained weights are float32 whatever the checkpoint's type (AdamW at a learning rate of 1e-6 moves no bfloat16 weight);
frozen models are held in the compute type. A reward model's head and score offset are never made up silently.
"""

from pathlib import Path

import torch
from peft import PeftConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from chatml import control
from engine.models.adapters import is_adapter, merge_adapter
from engine.models.logprobs import with_logprobs
from engine.models.packed import attention_for
from engine.models.scalar_head import scalar_class
from engine.models.vocabulary import fit_embeddings, prepare_tokenizer
from engine.run.devices import compute_dtype
from engine.run.folder import RunError
from recipes.sections import Model


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `path`, with ChatML's tokens and template; RunError if there is none to load."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no tokenizer at {path} ({first_line(error)}); give a model folder or a hub id") from None
    if not tokenizer.is_fast:
        raise RunError(f"{path} has a slow tokenizer only; plumbline needs a fast one (tokenizer.json)")
    prepare_tokenizer(tokenizer)
    return tokenizer


def load_causal(
    path: str, model: Model, tokenizer: PreTrainedTokenizerBase, *, trained: bool, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """A causal LM with a row for every token of `tokenizer`; an adapter folder is merged into its base.

    Trained: float32, in training mode. Frozen: compute type, no gradients, evaluation mode.
    """
    config = load_config(PeftConfig.from_pretrained(path).base_model_name_or_path if is_adapter(path) else path, model)
    model_class = with_logprobs(AutoModelForCausalLM._model_mapping[type(config)])
    refuse_unknown_logits(config)
    config.attention_dropout = model.attention_dropout if trained else 0.0
    if is_adapter(path):
        base = from_pretrained(model_class, PeftConfig.from_pretrained(path).base_model_name_or_path, config, model)
        fit_embeddings(base, tokenizer)
        loaded = merge_adapter(base, path)
    else:
        loaded = from_pretrained(model_class, path, config, model)
        fit_embeddings(loaded, tokenizer)
    return settle(loaded, model, trained, device)


def load_scalar(
    path: str, model: Model, tokenizer: PreTrainedTokenizerBase, *, trained: bool, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """A reward model that has been trained: head and offset come with it, or RunError says what is missing."""
    config = load_config(path, model)
    if not hasattr(config, "score_offset") or config.score_token_id is None:
        raise RunError(f"{path} is no reward model: its config.json has no score_offset; make one with `make rm`")
    model_class = scalar_class(config)
    config.attention_dropout = model.attention_dropout if trained else 0.0
    if is_adapter(path):
        base = from_pretrained(model_class, PeftConfig.from_pretrained(path).base_model_name_or_path, config, model)
        fit_embeddings(base, tokenizer)
        loaded = merge_adapter(base, path)
    else:
        loaded, report = model_class.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, **attention_of(model)
        )
        if report["missing_keys"]:
            raise RunError(
                f"{path} lacks {', '.join(sorted(report['missing_keys']))}: a reward model without its head would "
                "score at random; take the folder that `make rm` wrote, whole"
            )
    return settle(loaded, model, trained, device)


def new_scalar(path: str, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A base model's body with a fresh scalar head (zero mean, the model's own initial spread), to be trained."""
    config = load_config(path, model)
    config.num_labels = 1
    config.score_offset = 0.0
    config.score_token_id = control(tokenizer).im_end
    config.attention_dropout = model.attention_dropout
    causal = load_causal(path, model, tokenizer, trained=False)
    config.vocab_size = causal.config.vocab_size
    torch.manual_seed(seed)
    scalar = scalar_class(config)(config)
    body = getattr(scalar, scalar.base_model_prefix)
    body.load_state_dict(causal.base_model.float().state_dict())
    scalar.set_attn_implementation(attention_for(model.attention))
    return scalar


def is_reward_model(path: str, model: Model) -> bool:
    """Whether a checkpoint says of itself that it carries a scalar head."""
    return hasattr(load_config(path, model), "score_offset")


def load_config(path: str, model: Model) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no model at {path} ({first_line(error)}); give a model folder or a hub id") from None


def refuse_unknown_logits(config: PretrainedConfig) -> None:
    """Our log-probabilities are softmax(head(hidden)); models that do more to their logits would come out wrong."""
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if getattr(config.get_text_config(), key, None) not in (None, 1.0):
            raise RunError(f"{config.model_type} models transform their logits ({key}); plumbline does not do that yet")


def from_pretrained(
    model_class: type[PreTrainedModel], path: str, config: PretrainedConfig, model: Model
) -> PreTrainedModel:
    return model_class.from_pretrained(
        path, config=config, dtype=torch.float32, revision=model.revision, **attention_of(model)
    )


def attention_of(model: Model) -> dict[str, str]:
    return {"attn_implementation": attention_for(model.attention)}


def settle(loaded: PreTrainedModel, model: Model, trained: bool, device: torch.device | str) -> PreTrainedModel:
    """Type, mode and device of a model that was just loaded."""
    if trained:
        return loaded.to(device).train()
    return loaded.to(device, compute_dtype(model)).eval().requires_grad_(False)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what plain `from_pretrained` loads: weights, configuration, tokenizer, template, generation config."""
    model.config.use_cache = True  # trainers switch it off, and the switch would go into config.json
    model.save_pretrained(folder)
    if is_adapter(str(folder)):
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
