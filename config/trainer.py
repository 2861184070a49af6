"""The section `trainer`: any field of TRL's configuration, except those that another section decides."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from config.best import BEST_MODEL_FIELDS
from config.schema import CHANGEABLE, GROWS, NAMES, PACKAGES, Range, RecipeError, show
from config.trl_source import ConfigClass, trl_choices, trl_fields
from config.typed import OTHER_NAMES, nearest

# Field of TRL's configuration -> our key that decides it.
OWNED_FIELDS = {
    "output_dir": "run.dir",
    "run_name": "run.dir",
    "seed": "run.seed",
    "data_seed": "run.seed",
    "save_steps": "run.save_steps",
    "save_strategy": "run.save_steps",
    "save_total_limit": "run.keep_checkpoints",
    "report_to": "run.report_to",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "bf16_full_eval": "model.dtype",
    "fp16_full_eval": "model.dtype",
    "model_init_kwargs": "model.path, model.dtype or model.attention",
    "max_length": "data.max_length",
    "truncation_mode": "data.too_long",
    "packing": "data.packing",
    "eval_packing": "data.packing",
    "packing_strategy": "data.packing",
    "padding_free": "data.packing",
    "dataset_text_field": "data.fields",
    "assistant_only_loss": "chatml.mask",
    "completion_only_loss": "chatml.mask",
}

MEMORY_ADVICE = (
    "lower trainer.per_device_train_batch_size and raise trainer.gradient_accumulation_steps as much, "
    "set trainer.gradient_checkpointing=true, or lower data.max_length"
)
SHARDING_REASON = "HARDWARE chooses the sharding (recipes/accelerate)"
# A run of more epochs gets a warning; the number is our choice.
MANY_EPOCHS = 10

# Fields that have no effect here, and why.
REFUSED_FIELDS = {
    "resume_from_checkpoint": "the same command resumes a run",
    "ignore_data_skip": "a resumed run continues with data that it has not seen",
    "save_only_model": "checkpoints contain everything that is needed to resume",
    "use_cpu": "a GPU is used if there is one",
    "disable_tqdm": "the run shows its own progress line",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "remove_unused_columns": "rows contain only inputs of the model",
    "dataset_kwargs": "rows are prepared before the trainer gets them",
    "dataset_num_proc": "rows are prepared before the trainer gets them",
    "chat_template_path": "conversations are ChatML",
    "eos_token": "conversations are ChatML",
    "pad_token": "conversations are ChatML",
    "trust_remote_code": "only models that are part of transformers are supported",
    "average_tokens_across_devices": "the loss is a mean over the tokens of all processes",
    "fsdp": SHARDING_REASON,
    "fsdp_config": SHARDING_REASON,
    "deepspeed": SHARDING_REASON,
    "accelerator_config": SHARDING_REASON,
    "parallelism_config": SHARDING_REASON,
}

# Values that are not supported, and why.
REFUSED_VALUES = {("train_sampling_strategy", "batch_rebalance"): "batches are the same on any number of processes"}

BOUNDS = {
    "learning_rate": Range(above=0),
    "per_device_train_batch_size": Range(least=1),
    "per_device_eval_batch_size": Range(least=1),
    "gradient_accumulation_steps": Range(least=1),
    "num_train_epochs": Range(above=0),
    "warmup_steps": Range(least=0),
    "weight_decay": Range(least=0),
    "adam_beta1": Range(least=0, below=1),
    "adam_beta2": Range(least=0, below=1),
    "adam_epsilon": Range(above=0),
    "max_grad_norm": Range(least=0),
    "logging_steps": Range(above=0),
    "eval_steps": Range(above=0),
}

# Optimiser -> the optional package that it needs, as pip names it.
OPTIMISER_PACKAGES = {
    name: package
    for package, names in {
        "bitsandbytes": "adamw_8bit adamw_bnb_8bit paged_adamw_32bit paged_adamw_8bit lion_32bit lion_8bit "
        "paged_lion_32bit paged_lion_8bit ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit rmsprop_bnb "
        "rmsprop_bnb_8bit rmsprop_bnb_32bit",
        "torchao": "adamw_torch_4bit adamw_torch_8bit",
        "galore-torch": "galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise "
        "galore_adamw_8bit_layerwise galore_adafactor_layerwise",
        "apollo-torch": "apollo_adamw apollo_adamw_layerwise",
        "lomo-optim": "lomo adalomo",
        "grokadamw": "grokadamw",
        "schedulefree": "schedule_free_radam schedule_free_adamw schedule_free_sgd",
        "torch-optimi": "stable_adamw",
        "torch_xla": "adamw_torch_xla",
        "torch_npu": "adamw_torch_npu_fused",
        "git+https://github.com/pytorch/torchdistx": "adamw_anyprecision",
    }.items()
    for name in names.split()
}
# Values that need another field: (field, pattern of its value) -> (other field, keys of which it needs at least one).
COMPANION_FIELDS = {
    ("optim", r"galore_.*|apollo_.*"): ("optim_target_modules", ()),
    ("lr_scheduler_type", r"cosine.*_with_min_lr"): ("lr_scheduler_kwargs", ("min_lr", "min_lr_rate")),
    ("lr_scheduler_type", r"warmup_stable_decay"): ("lr_scheduler_kwargs", ("num_decay_steps",)),
}

# Fields that may change when a run resumes: they do not affect its weights, except by rounding and dropout's draws.
BATCH_DEFAULTS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
}  # with TRL's defaults; see fixed_keys
CHANGEABLE_FIELDS = (
    *BATCH_DEFAULTS,
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "activation_offloading",
    "torch_empty_cache_steps",
    "logging_steps",
    "logging_first_step",
    "logging_strategy",
    "log_level",
    "log_level_replica",
    "eval_steps",
    "eval_strategy",
    "eval_delay",
    "eval_on_start",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
)
LENGTH_FIELDS = ("max_steps", "num_train_epochs")

# Type of a YAML value -> the names of types in annotations that accept it. An integer is accepted as a float.
YAML_TYPE_NAMES = {bool: {"bool"}, int: {"int", "float"}, float: {"float"}, str: {"str"}, type(None): {"None"}}


def trainer_mapping(config_class: ConfigClass) -> Any:
    """Return a dataclass field for the section `trainer` of a stage whose configuration is `config_class`."""
    metadata = {
        NAMES: lambda: {
            name: f"one of {', '.join(choices)}" if (choices := trl_choices(config_class).get(name)) else annotation
            for name, annotation in trl_fields(config_class).items()
            if name not in {*OWNED_FIELDS, *REFUSED_FIELDS, *BEST_MODEL_FIELDS}
        },
        CHANGEABLE: CHANGEABLE_FIELDS,
        GROWS: LENGTH_FIELDS,
        PACKAGES: {"optim": OPTIMISER_PACKAGES, "use_liger_kernel": {True: "liger-kernel"}},
    }
    return field(default_factory=dict, metadata=metadata)


def fixed_fields(section: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """Return key -> reason, for the fields of `trainer` that a resumed run may not change (config/resume.py).

    A learning-rate schedule that depends on the last step fixes the length of the run. The batch size is fixed, but not
    how per_device_train_batch_size and gradient_accumulation_steps divide it.
    """
    fixed: dict[str, str] = {}
    schedule, warmup = section.get("lr_scheduler_type", "linear"), section.get("warmup_steps") or 0
    if schedule not in ("constant", "constant_with_warmup"):
        fixed |= dict.fromkeys(LENGTH_FIELDS, f"trainer.lr_scheduler_type={schedule} depends on the last step")
    elif schedule == "constant_with_warmup" and (0 < warmup < 1 or section.get("warmup_ratio")):
        fixed |= dict.fromkeys(LENGTH_FIELDS, "the warm-up is a share of all steps")
    rows, were = (
        math.prod(values.get(name, default) for name, default in BATCH_DEFAULTS.items()) for values in (section, before)
    )
    if rows != were:
        fixed |= dict.fromkeys(BATCH_DEFAULTS, f"a step has {were} rows and would have {rows}")
    return {f"trainer.{name}": why for name, why in fixed.items()}


def check_trainer(
    section: Mapping[str, Any], config_class: ConfigClass, evaluates: bool, owned: Mapping[str, str]
) -> None:
    """Raise RecipeError for the first key of `trainer` that is unknown, decided elsewhere, mistyped or out of bounds.

    `evaluates`: whether the recipe names evaluation data. `owned`: field -> our key, for fields that this stage decides
    in addition to `OWNED_FIELDS`.
    """
    if not section:
        return
    fields, choices = trl_fields(config_class), trl_choices(config_class)
    for name, value in section.items():
        key = f"trainer.{name}"
        if name not in fields:
            other = OTHER_NAMES.get(name)
            near = [other] if other in fields else nearest(name, fields)
            way_out = f"did you mean trainer.{near[0]}?" if near else f"it takes the fields of TRL's {config_class}"
            raise RecipeError(f"unknown key {key}; {way_out}", key=key)
        if ours := owned.get(name) or OWNED_FIELDS.get(name):
            raise RecipeError(f"{key} is decided by another section; set {ours} instead", key=key)
        if name in REFUSED_FIELDS:
            raise RecipeError(f"{key} has no effect here: {REFUSED_FIELDS[name]}; leave it out", key=key)
        if not YAML_TYPE_NAMES.get(type(value), {"dict", "list"}) & set(_type_names(fields[name])):
            quoted = "; put it in quotes if it is meant as text" if isinstance(value, bool) else ""
            raise RecipeError(f"{key} is {show(value)}; it must be of the type {fields[name]}{quoted}", key=key)
        if isinstance(value, str) and value not in choices.get(name, [value]):
            near = nearest(value, choices[name])
            way_out = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(choices[name])}"
            raise RecipeError(f"{key} is {show(value)}; {way_out}", key=key)
        if isinstance(value, str) and (reason := REFUSED_VALUES.get((name, value))):
            raise RecipeError(f"{key} is {value}, which is not supported: {reason}; leave it out", key=key)
        if name in BOUNDS and value is not None and value not in BOUNDS[name]:
            raise RecipeError(f"{key} is {show(value)}; it must be {BOUNDS[name]}", key=key)
    for (name, values), (other, needed) in COMPANION_FIELDS.items():
        given = section.get(other)
        if re.fullmatch(values, str(section.get(name))) and (
            not given or (isinstance(given, Mapping) and needed and not given.keys() & set(needed))
        ):
            given = f"{{{needed[0]}: VALUE}}" if needed else "[NAME, NAME]"
            raise RecipeError(
                f"trainer.{name}={section[name]} needs trainer.{other}{' with ' if needed else ''}"
                f"{' or '.join(needed)}; set trainer.{other}={given}, or choose another",
                key=f"trainer.{name}",
            )
    if not evaluates and section.get("eval_strategy", "no") != "no":
        raise RecipeError(
            f"trainer.eval_strategy is {show(section['eval_strategy'])}, but there is nothing to evaluate on; "
            "set data.eval, or leave trainer.eval_strategy out",
            key="trainer.eval_strategy",
        )


def _type_names(annotation: str) -> Iterator[str]:
    """Yield the names of a union's members; other types (in TRL, enumerations) are given as text in YAML."""
    known = {"bool", "int", "float", "str", "dict", "list", "None"}
    for member in annotation.split("|"):
        name = member.strip().partition("[")[0]
        yield name if name in known else "str"
