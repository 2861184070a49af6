"""LoRA as a recipe asks for it, and adapters merged back into their base."""

from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from recipes.sections import Lora


def lora_config(lora: Lora, tokenizer: PreTrainedTokenizerBase, *, scalar_head: bool = False) -> LoraConfig | None:
    """peft's configuration, or None for full finetuning (`lora.r` = 0).

    The rows of the ChatML tokens are trained as well: a base model has either never seen these tokens (Qwen) or has
    just been given them (Llama). A scalar head is trained whole.
    """
    if lora.r == 0:
        return None
    ids = control(tokenizer)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=[ids.im_start, ids.im_end],
        modules_to_save=["score"] if scalar_head else None,
        task_type=TaskType.SEQ_CLS if scalar_head else TaskType.CAUSAL_LM,
    )


def is_adapter(path: str) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (Path(path) / "adapter_config.json").exists()


def merge_adapter(base: PreTrainedModel, path: str) -> PreTrainedModel:
    """`base` with the adapter in `path` merged into its weights."""
    return PeftModel.from_pretrained(base, path).merge_and_unload()
