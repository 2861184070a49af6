"""The private names of other libraries that plumbline uses; no other file uses any (tests/unit/test_private_names.py).

A private name may change in any release. So each stands here once, with the reason why no public name does, and has a
test of its own in tests/unit/engine/test_compat.py, which an upgrade must pass. All were tested with the versions in
constraints.txt: torch 2.13, transformers 5.23, trl 1.16, datasets 5.2 and deepspeed 0.19. Nothing heavy is imported at
the top: processes that prepare data use this file without torch.

One more private name is read in source code, without importing it: TRL's `_BaseConfig` in config/trl_source.py.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments

TRAINER_METHODS = {
    # Overridden: checkpoints are written by parameter name, by all ranks, and are complete or absent.
    "_save_checkpoint": ("model", "trial"),
    "_save": ("output_dir", "state_dict"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    # Overridden: weights and optimiser are read together, after both are prepared.
    "_prepare_for_training": ("max_steps", "train_dataloader", "resume_from_checkpoint"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_best_model": (),
    # Overridden: a run that resumes from its last step trains no further epoch.
    "_run_epoch": (
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ),
    # Called: the order of rows, and inputs moved to the device, in loops of our own.
    "_get_train_sampler": ("train_dataset",),
    "_prepare_inputs": ("inputs",),
}
"""Method of transformers' Trainer that our trainers override or call on themselves -> its parameters after self.

There are no public hooks for writing and reading checkpoints. A method that is renamed would be overridden in vain.
"""


# transformers and TRL


def attention_of(model: "PreTrainedModel | PeftModel") -> str:
    """Return the name of the attention implementation that a model uses now; only the setter is public."""
    return model.config._attn_implementation


def set_configured_attention(config: "PretrainedConfig", name: str) -> None:
    """Set the attention implementation in a configuration only.

    The public `set_attn_implementation` refuses to change some older classes, whose masks depend on this name alone.
    """
    config._attn_implementation = name


def new_model(model_class: "type[PreTrainedModel]", config: "PretrainedConfig", **settings: Any) -> "PreTrainedModel":
    """Return a model of a class with random weights; `settings` are dtype and attn_implementation.

    The public `from_config` belongs to the auto classes, which cannot build a class of ours.
    """
    return model_class._from_config(config, **settings)


def head_parallel_plan(model: "PreTrainedModel") -> Mapping[str, str]:
    """Return the tensor-parallel styles that a class gives its head: {name pattern: style}, without its body's styles.

    The public `tp_plan` merges them with styles of other modules, some of which depend on the device.
    """
    return type(model)._tp_plan or {}


def cached_file_or_none(path: str, name: str, revision: str | None) -> str | None:
    """Return the path of a file of a model folder or hub model; None if it has no such file.

    Without the private argument an absent file is an OSError, as is a hub that cannot be reached.
    """
    from transformers.utils.hub import cached_file

    return cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)


def use_one_gpu(arguments: "TrainingArguments") -> None:
    """Make a Trainer use one GPU per rank, however many are visible; more would start DataParallel.

    `n_gpu` is a property without a setter.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


def trl_prepared(trainer: Any, rows: Any, tokenizer: Any) -> Any:
    """Return rows tokenised as the constructor of TRL's SFTTrainer does; only the constructor is public."""
    return trainer._prepare_dataset(rows, tokenizer, trainer.args, False, None, "train")


# torch


def non_persistent_buffers(module: "torch.nn.Module") -> set[str]:
    """Return the names of a module's own buffers that a state dict leaves out; no public name lists them."""
    return module._non_persistent_buffers_set


def compile_error() -> type[Exception]:
    """Return the base class of torch.compile's errors, which has no public name."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def mark_static_address(tensor: "torch.Tensor") -> None:
    """Promise torch.compile that a tensor keeps its address, so that a CUDA graph writes into it, not into a copy."""
    import torch._dynamo

    torch._dynamo.mark_static_address(tensor)


# datasets


def table_fingerprint(rows: Any) -> str:
    """Return the hash of a data set's content and transforms, by which `datasets` itself names its cache files."""
    return rows._fingerprint


# DeepSpeed: its public functions save and load whole checkpoints only, for the number of ranks that wrote them.


def partition_weights(context: Any, weights: "Sequence[torch.nn.Parameter]") -> None:
    """Shard weights for ZeRO-3 in place; `context` is a deepspeed.zero.Init (collective).

    The public way moves the whole model to every device first.
    """
    context._convert_to_zero_parameters(weights)


def consolidated_weights(engine: Any) -> "dict[str, torch.Tensor]":
    """Return the full trained weights of a ZeRO-3 engine on rank 0, {} on other ranks (collective)."""
    return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}


def is_on_this_rank(weight: "torch.nn.Parameter") -> bool:
    """Return whether this rank has a part of a weight under ZeRO-2; true under ZeRO-3."""
    return getattr(weight, "_hp_mapping", weight) is not None


def link_moments(zero2_optimizer: Any) -> None:
    """Link ZeRO-2's weights to their moments again: DeepSpeed itself links only one group, after the first step."""
    zero2_optimizer._hp_optimizer_states_linked = False
    zero2_optimizer._lazy_init_hp_params_optimizer_state()


def update_computed_weights(zero3_optimizer: Any, group: int) -> None:
    """Copy the float32 weights of a group to those that ZeRO-3 computes with; under ZeRO-2 this has a public name."""
    zero3_optimizer._reassign_or_swap_out_partitioned_parameters(group)
