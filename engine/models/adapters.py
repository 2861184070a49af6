"""LoRA adapters as a recipe asks for them, and adapters merged back into their base."""

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
from engine.models.vocabulary import knows_turns

# What adapters' tensors are named, as opposed to copies of whole embedding tables beside them.
ADAPTED = re.compile(r"lora_|trainable_tokens|modules_to_save")


def lora_config(lora: Lora, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoraConfig | None:
    """Return peft's configuration for this model, or None for full finetuning (`lora.r` = 0).

    The embedding rows of the ChatML tokens, and of the tokens around tool calls where the tokenizer has them, are
    trained as well, and so are their rows of an untied output head: a base model has either never seen these tokens
    (Qwen) or has just been given them (Llama). With `lora.train_tokens` = false they are not. A scalar head is trained
    in full.
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
    """Return the ids of the tokens whose embedding rows are trained beside adapters."""
    ids = control(tokenizer)
    return [ids.im_start, ids.im_end, *(ids.markers[name] for name in TOOL_MARKERS if name in ids.markers)]


def add_adapters(
    base: PreTrainedModel, lora: Lora, tokenizer: PreTrainedTokenizerBase, seed: int, dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """Wrap `base` in the recipe's LoRA adapters, if any; store its linear weights in `dtype` where that loses nothing.

    The adapters are float32 and a function of the seed alone: they are drawn again once the base has its type, since
    peft rounds what it draws to that type. Call this before TrainingArguments are made: once these mention ZeRO-3, peft
    expects a base that is sharded already.

    Raises RunError where `lora.train_tokens` is false and the base does not know the ChatML tokens.
    """
    config = lora_config(lora, base, tokenizer)
    if config is None:
        return base
    if not (lora.train_tokens or knows_turns(base, tokenizer)):
        raise RunError(
            "lora.train_tokens=false leaves the rows of <|im_start|> and <|im_end|> as the base has them, but it was "
            "never trained on these tokens; set lora.train_tokens=true"
        )
    if lora.train_tokens and not lora.merge and knows_turns(base, tokenizer) and is_main_process():
        print(
            f"lora.merge=false: the adapter will hold embedding rows of {len(token_rows(tokenizer))} tokens "
            "(trainable_tokens_delta), which some servers (vLLM) refuse; lora.train_tokens=false leaves those rows as "
            "the base has them",
            flush=True,
        )
    if not (lora.load_in_4bit or sharding.sharding_requested()):
        store_linear_low(base, dtype)
    model = get_peft_model(base, config)
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.reset_lora_parameters("default", init_lora_weights=True)
    return model


def store_linear_low(base: PreTrainedModel, dtype: torch.dtype, *, rounding: bool = False) -> None:
    """Store a frozen base's linear layers, except its heads, in the computation's type where no weight changes by it.

    Published weights are bfloat16, and autocast would convert their float32 copies back in every pass. The results stay
    the same bit for bit. Under FSDP2 `shard_model` does the same. With `rounding`, for models that are never written,
    weights that change by it are stored so too: under autocast the results are still the same.
    """
    heads = {base.get_output_embeddings(), getattr(base, "score", None)}
    for layer in base.modules():
        if isinstance(layer, torch.nn.Linear) and layer not in heads:
            for weight in layer.parameters(recurse=False):
                low = weight.data.to(dtype)
                if rounding or torch.equal(low.to(weight.dtype), weight.data):
                    weight.data = low


def is_adapter(path: str) -> bool:
    """Return whether a folder holds an adapter rather than a whole model."""
    return (Path(path) / "adapter_config.json").exists()


def merge_adapter(base: PreTrainedModel, path: str) -> PreTrainedModel:
    """Return `base` with the adapter in `path` merged into its weights; RunError where it does not fit whole."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of missing keys, refused below
            model = PeftModel.from_pretrained(base, path)
    except (SafetensorError, EOFError) as error:
        raise RunError(f"the adapter in {path} cannot be read ({first_line(error)}); copy its folder again") from None
    except KeyError as error:  # peft looks for rows of tables and heads by their names alone
        raise RunError(f"the adapter in {path} lacks {error.args[0]}; copy its whole folder") from None
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise RunError(
            f"the adapter in {path} is of a base with other shapes than {base_of(path)}; name the base that it was "
            "trained on in its adapter_config.json"
        ) from None
    refuse_unfit_adapter(path, get_peft_model_state_dict(model, save_embedding_layers=False), load_peft_weights(path))
    return model.merge_and_unload()


def refuse_unfit_adapter(path: str, expected: Collection[str], stored: Collection[str]) -> None:
    """Raise RunError if an adapter's file lacks expected tensors, or has tensors of adapters that its base has not."""
    missing = sorted(set(expected) - set(stored))
    foreign = sorted(key for key in set(stored) - set(expected) if ADAPTED.search(key))
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has {foreign[0]}, which its base has no place for"
        more = len(missing or foreign) - 1
        also = f", and has {foreign[0]} instead" if missing and foreign else ""
        raise RunError(
            f"the adapter in {path} {what}{f' and {more} more' if more else ''}{also}; its tensors are not those that "
            "its adapter_config.json describes, copy the whole folder"
        )


def base_of(path: str) -> str:
    """Return the base model that an adapter folder names; any other path is returned as it is."""
    return PeftConfig.from_pretrained(path).base_model_name_or_path if is_adapter(path) else path


def outgrew_its_base(model: PeftModel) -> bool:
    """Return whether rows were added to the base's vocabulary: plain `from_pretrained` could not load the adapter."""
    base = model.peft_config["default"].base_model_name_or_path
    return AutoConfig.from_pretrained(base).vocab_size < model.config.vocab_size
