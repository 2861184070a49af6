"""The section `trainer`: any field of TRL's own configuration except those that another section decides.

TRL takes four seconds to import, so the fields and their types are read from the source of its classes; a test checks
that they are those of the imported classes.
"""

import ast
import importlib.util
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from config.schema import Range, RecipeError, open_mapping, show
from config.typed import nearest

ConfigClass = Literal["SFTConfig", "RewardConfig"]

# Which file declares the fields of a class, and those of its bases.
SOURCES = {
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
}

# The field of TRL's that one of our keys decides.
OWNED = {
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
SHARED = "HARDWARE decides what processes share (recipes/accelerate)"
LAST_STEP = "the finished model is the last one"

# Fields that have no effect here, and why.
REFUSED = {
    "resume_from_checkpoint": "a run continues by the same command",
    "ignore_data_skip": "a run continues with the data it has not seen",
    "save_only_model": "a checkpoint holds all that the run needs to continue",
    "use_cpu": "a GPU is used where there is one",
    "disable_tqdm": "the run shows its own progress line",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "remove_unused_columns": "rows hold only what the model takes",
    "dataset_kwargs": "rows are made before the trainer sees them",
    "dataset_num_proc": "rows are made before the trainer sees them",
    "chat_template_path": "conversations are ChatML",
    "eos_token": "conversations are ChatML",
    "pad_token": "conversations are ChatML",
    "trust_remote_code": "models are those that transformers knows",
    "average_tokens_across_devices": "the loss is a mean over the tokens of all processes",
    "fsdp": SHARED,
    "fsdp_config": SHARED,
    "deepspeed": SHARED,
    "accelerator_config": SHARED,
    "parallelism_config": SHARED,
    "load_best_model_at_end": LAST_STEP,
    "metric_for_best_model": LAST_STEP,
    "greater_is_better": LAST_STEP,
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

# Fields that may change when a run resumes: they leave its weights alone, up to rounding and what dropout draws.
BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}  # with TRL's defaults; see fixed_keys
CHANGEABLE_FIELDS = (
    *BATCH,
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

# Types of values read from YAML, and the names that annotations use for them. An integer is accepted as a float.
PLAIN = {bool: {"bool"}, int: {"int", "float"}, float: {"float"}, str: {"str"}, type(None): {"None"}}


def trainer_mapping(config_class: ConfigClass) -> Any:
    """Return a dataclass field for the section `trainer` of a stage whose configuration is `config_class`."""
    return open_mapping(
        lambda: [name for name in trl_fields(config_class) if name not in OWNED | REFUSED],
        changeable=CHANGEABLE_FIELDS,
        grows=LENGTH_FIELDS,
    )


def fixed_fields(section: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """Return key -> why, of the fields of `trainer` that a resumed run may not change here (config/resume.py).

    A learning rate that depends on the last step fixes the run's length. The batch is fixed, not its division into
    per_device_train_batch_size and gradient_accumulation_steps.
    """
    fixed = {}
    schedule, warmup = section.get("lr_scheduler_type", "linear"), section.get("warmup_steps") or 0
    if schedule not in ("constant", "constant_with_warmup"):
        fixed |= dict.fromkeys(LENGTH_FIELDS, f"trainer.lr_scheduler_type={schedule} depends on the last step")
    elif schedule == "constant_with_warmup" and (0 < warmup < 1 or section.get("warmup_ratio")):
        fixed |= dict.fromkeys(LENGTH_FIELDS, "the warm-up is a share of all steps")
    rows, were = (
        math.prod(values.get(name, default) for name, default in BATCH.items()) for values in (section, before)
    )
    if rows != were:
        fixed |= dict.fromkeys(BATCH, f"a step has {were} rows and would have {rows}")
    return {f"trainer.{name}": why for name, why in fixed.items()}


def check_trainer(
    section: Mapping[str, Any], config_class: ConfigClass, evaluates: bool, owned: Mapping[str, str]
) -> None:
    """Raise RecipeError for the first key of `trainer` that is unknown, decided elsewhere, mistyped or out of bounds.

    `evaluates`: whether the recipe names data to evaluate on. `owned`: fields that the stage decides besides `OWNED`,
    and our keys for them.
    """
    if not section:
        return
    fields = trl_fields(config_class)
    for name, value in section.items():
        key = f"trainer.{name}"
        if name not in fields:
            near = nearest(name, fields)
            way_out = f"did you mean trainer.{near[0]}?" if near else f"it takes the fields of TRL's {config_class}"
            raise RecipeError(f"unknown key {key}; {way_out}", key=key)
        if ours := owned.get(name) or OWNED.get(name):
            raise RecipeError(f"{key} is decided by another section; set {ours} instead", key=key)
        if name in REFUSED:
            raise RecipeError(f"{key} has no effect here: {REFUSED[name]}; leave it out", key=key)
        if not PLAIN.get(type(value), {"dict", "list"}) & set(_type_names(fields[name])):
            quoted = "; put it in quotes if it is meant as text" if isinstance(value, bool) else ""
            raise RecipeError(f"{key} is {show(value)}; it must be of the type {fields[name]}{quoted}", key=key)
        if reason := REFUSED_VALUES.get((name, value) if isinstance(value, str) else None):
            raise RecipeError(f"{key} is {value}, which is not done here: {reason}; leave it out", key=key)
        if name in BOUNDS and value is not None and value not in BOUNDS[name]:
            raise RecipeError(f"{key} is {show(value)}; it must be {BOUNDS[name]}", key=key)
    if not evaluates and section.get("eval_strategy", "no") != "no":
        raise RecipeError(
            f"trainer.eval_strategy is {show(section['eval_strategy'])}, but there is nothing to evaluate on; "
            "give data.eval, or leave trainer.eval_strategy out",
            key="trainer.eval_strategy",
        )


@cache
def trl_fields(config_class: str) -> dict[str, str]:
    """Return name and annotation, as written, of every field of a TRL configuration class, without importing it."""
    package, file = SOURCES[config_class]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"{package} is not installed; run make setup")
    tree = ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config_class)
    fields: dict[str, str] = {}
    for base in cls.bases:
        fields |= trl_fields(ast.unparse(base))
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            fields[node.target.id] = ast.unparse(node.annotation)
    return fields


def _type_names(annotation: str) -> Iterator[str]:
    """Yield the names of a union's members; a type that is not plain (an enumeration, in TRL) is written as text."""
    known = {"bool", "int", "float", "str", "dict", "list", "None"}
    for member in annotation.split("|"):
        name = member.strip().partition("[")[0]
        yield name if name in known else "str"
