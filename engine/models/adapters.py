"""Add a recipe's LoRA adapters to a base model, and merge adapters into their base."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from chatml import TOOL_MARKERS, control
from config.sections import Lora
from engine.dist import sharding
from engine.dist.ranks import is_main_process
from engine.errors import RunError, first_line
from engine.models.vocabulary import knows_chatml_tokens

# Names of adapter tensors. A file may also contain copies of whole embedding tables, whose names do not match.
ADAPTER_TENSOR = re.compile(r"lora_|trainable_tokens|modules_to_save")


def lora_config(lora: Lora, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoraConfig | None:
    """Return peft's configuration for this model, or None for full finetuning (`lora.r` = 0).

    The embedding rows of the ChatML tokens and of the tokenizer's tool-call tokens are trained as well, and so are the
    same rows of an untied output head: a base was either not trained on these tokens (Qwen) or they were just added
    (Llama). `lora.train_tokens` = false excludes these rows. A scalar head is trained in full.
    """
    if lora.r == 0:
        return None
    rows = token_rows(tokenizer)
    tables = [model.get_input_embeddings()]
    if model.can_generate() and not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings())
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        trainable_token_indices={names[id(table)]: rows for table in tables} if lora.train_tokens else None,
        modules_to_save=None if model.can_generate() else ["score"],
        task_type=TaskType.CAUSAL_LM if model.can_generate() else TaskType.SEQ_CLS,
    )


def token_rows(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the tokens whose embedding rows are trained together with the adapters."""
    ids = control(tokenizer)
    return [ids.im_start, ids.im_end, *(ids.markers[name] for name in TOOL_MARKERS if name in ids.markers)]


def add_adapters(
    base: PreTrainedModel, lora: Lora, tokenizer: PreTrainedTokenizerBase, seed: int, dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """Wrap `base` in the recipe's LoRA adapters, if any; store its linear weights in `dtype` where that loses nothing.

    The adapters are float32 and depend on the seed alone: they are initialised again once the base has its dtype,
    because peft rounds the first values to that dtype. Call this before you create TrainingArguments: once these
    mention ZeRO-3, peft expects a base that is sharded already.

    Raises RunError if `lora.train_tokens` is false and the base was not trained on the ChatML tokens.
    """
    config = lora_config(lora, base, tokenizer)
    if config is None:
        return base
    if not (lora.train_tokens or knows_chatml_tokens(base, tokenizer)):
        raise RunError(
            "lora.train_tokens=false leaves the rows of <|im_start|> and <|im_end|> as the base has them, but the "
            "base was never trained on these tokens; set lora.train_tokens=true"
        )
    if lora.train_tokens and not lora.merge and knows_chatml_tokens(base, tokenizer) and is_main_process():
        print(
            f"lora.merge=false: the adapter will contain embedding rows of {len(token_rows(tokenizer))} tokens "
            "(trainable_tokens_delta), which some servers (vLLM) refuse; lora.train_tokens=false leaves those rows as "
            "the base has them",
            flush=True,
        )
    if not (lora.load_in_4bit or sharding.sharding_requested()):
        store_linear_weights(base, dtype)
    model = get_peft_model(base, config)
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.reset_lora_parameters("default", init_lora_weights=True)
    return model


def store_linear_weights(base: PreTrainedModel, dtype: torch.dtype, *, rounding: bool = False) -> None:
    """Store the weights of a frozen base's linear layers, except its heads, in `dtype` where that loses nothing.

    Published weights are bfloat16, and autocast would convert their float32 copies back in every forward pass. Results
    stay the same bit for bit. Under FSDP2 `shard_model` does the same. `rounding` converts weights that lose precision
    as well, for models that are never saved: under autocast the results are still the same.
    """
    heads = {base.get_output_embeddings(), getattr(base, "score", None)}
    for layer in base.modules():
        if isinstance(layer, torch.nn.Linear) and layer not in heads:
            for weight in layer.parameters(recurse=False):
                low = weight.data.to(dtype)
                if rounding or torch.equal(low.to(weight.dtype), weight.data):
                    weight.data = low


def is_adapter(path: str) -> bool:
    """Return whether a folder contains an adapter rather than a whole model."""
    return (Path(path) / "adapter_config.json").exists()


def merge_adapter(base: PreTrainedModel, path: str) -> PreTrainedModel:
    """Return `base` with the adapter in `path` merged into its weights.

    Raises RunError if the adapter cannot be read, is incomplete, or does not fit the base.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # missing keys: refused below
            model = PeftModel.from_pretrained(base, path)
    except (SafetensorError, EOFError) as error:
        raise RunError(f"the adapter in {path} cannot be read ({first_line(error)}); copy its folder again") from None
    except KeyError as error:  # peft looks up rows of tables and heads by name alone
        raise RunError(f"the adapter in {path} lacks {error.args[0]}; copy its whole folder") from None
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise RunError(
            f"the adapter in {path} was trained on a base with other shapes than {base_of(path)}; name that base in "
            "its adapter_config.json"
        ) from None
    refuse_unfit_adapter(path, get_peft_model_state_dict(model, save_embedding_layers=False), load_peft_weights(path))
    return model.merge_and_unload()


def refuse_unfit_adapter(path: str, expected: Collection[str], stored: Collection[str]) -> None:
    """Raise RunError unless the adapter tensors in the file of `path` are those that the model expects."""
    missing = sorted(set(expected) - set(stored))
    foreign = sorted(key for key in set(stored) - set(expected) if ADAPTER_TENSOR.search(key))
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has {foreign[0]}, which does not fit its base"
        more = len(missing or foreign) - 1
        also = f", and has {foreign[0]} instead" if missing and foreign else ""
        raise RunError(
            f"the adapter in {path} {what}{f' and {more} more' if more else ''}{also}; its tensors do not match "
            "its adapter_config.json, copy the whole folder"
        )


def base_of(path: str) -> str:
    """Return the path or hub id of the base that an adapter folder names; return any other path unchanged."""
    return PeftConfig.from_pretrained(path).base_model_name_or_path if is_adapter(path) else path


def has_extended_vocabulary(model: PeftModel) -> bool:
    """Return whether rows were added to the base's vocabulary; plain `from_pretrained` then cannot load the adapter."""
    base = model.peft_config["default"].base_model_name_or_path
    assert base is not None  # peft copies it from the model that it wraps
    return AutoConfig.from_pretrained(base).vocab_size < model.config.vocab_size
