"""TRL's trainers inside a run folder: arguments from a recipe, the callback, resume, and the finished model."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from engine.dist import sharding
from engine.dist.devices import compute_dtype
from engine.dist.ranks import check_all_ranks_joined, launched_ranks, leave_gloo_to_torch
from engine.dist.shard_model import shard_model
from engine.errors import RunError
from engine.models.adapters import base_of, is_adapter
from engine.models.saving import save_model
from engine.run import checkpoints
from engine.run.batches import DealtBatches, batch_of, parts_a_step
from engine.run.disk_space import disk_needs
from engine.run.lifecycle import Lifecycle
from engine.run.throughput import Throughput

# Keys that transformers logs -> their names in metrics.jsonl, where timings contain `seconds`.
SECONDS = {"train_runtime": "train_seconds", "eval_runtime": "eval_seconds"}
# Metrics shown while a trainer runs.
WATCHED = ("loss", "accuracy", "eval_loss", "eval_accuracy")
# Beyond so many epochs a run starts with a warning.
MANY_EPOCHS = 10


def arguments(
    config_class: type[TrainingArguments], recipe: Any, lifecycle: Lifecycle, **ours: Any
) -> TrainingArguments:
    """Return the trainer's configuration: the recipe's `trainer` section, and what our own sections decide.

    Where there is data to evaluate on, that happens at every checkpoint unless the recipe says otherwise. The batch is
    the recipe's; how many parts each rank takes of it follows from their number.

    Raises RunError for values that TRL refuses, and if not all launched ranks have joined.
    """
    path = recipe.model.path
    if recipe.lora.r and not recipe.lora.merge and is_adapter(path):
        raise RunError(
            f"lora.merge=false would keep an adapter of {base_of(path)} alone and lose model.path={path}, one of it "
            f'already; set lora.merge=true, or merge that first: make merge ARGS="{path} OUT"'
        )
    # transformers has renamed `gradient_checkpointing`; under that name, which TRL's default still has, it warns.
    settings = {
        "activation_checkpointing": recipe.trainer.get("gradient_checkpointing", True),
        "ddp_find_unused_parameters": False,  # every forward pass uses all trained weights
        **({"eval_strategy": "steps", "eval_steps": recipe.run.save_steps} if recipe.data.eval else {}),
        **ours,
        **recipe.trainer,
        "gradient_accumulation_steps": parts_a_step(*batch_of(config_class, recipe.trainer), launched_ranks()),
    }
    folder, output = lifecycle.folder.path, lifecycle.store.here
    if output != folder:  # else tensorboard's files would follow the checkpoints
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "runs"))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        leave_gloo_to_torch()
    try:
        made = config_class(
            output_dir=str(output),
            seed=recipe.run.seed,
            save_strategy="steps",
            save_steps=recipe.run.save_steps,
            report_to=recipe.run.report_to or "none",
            use_cpu=not torch.cuda.is_available(),
            bf16=compute_dtype(recipe.model) == torch.bfloat16,
            disable_tqdm=True,
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            **settings,
        )
    except ValueError as error:
        raise RunError(f"trainer: {str(error).splitlines()[0]}") from None
    check_all_ranks_joined(made.world_size)
    if made.deepspeed_plugin is not None and made.optim not in ("adamw_torch", "adamw_torch_fused"):
        # Checkpoints under ZeRO take AdamW's moments only (engine/run/zero_state.py).
        raise RunError(
            f"trainer.optim={made.optim.value} has no checkpoints under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2"
        )
    made._n_gpu = min(made.n_gpu, 1)  # one GPU a rank, however many it sees; several would mean DataParallel
    return made


def is_shown(record: logging.LogRecord) -> bool:
    """Return whether a line of transformers' log is shown: not that keys differ which may change on resume."""
    return "do not match the ones in the `trainer_state.json`" not in record.getMessage()


def refuse_without_gpu(section: dict[str, Any]) -> None:
    """Raise RunError for what the recipe's `trainer` section asks for and only a GPU can do; needs no model yet."""
    if section.get("activation_offloading") and not torch.cuda.is_available():
        raise RunError(
            "trainer.activation_offloading=true moves activations from a GPU to the CPU's memory, and there is no GPU; "
            "leave it out"
        )


class RunCallback(TrainerCallback):
    """Passes what happens in a trainer on to the run's lifecycle; stops at a loss that is not finite."""

    def __init__(self, lifecycle: Lifecycle, throughput: Throughput, merges: bool):
        self.lifecycle, self.throughput, self.merges = lifecycle, throughput, merges

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        train_dataloader: DataLoader,
        **_: Any,
    ) -> None:
        # A resumed state holds the steps of the recipe that it was written under.
        state.compute_steps(args, state.max_steps)
        if state.best_global_step:  # the folder that it was in may have changed since
            state.best_model_checkpoint = str(self.lifecycle.find_best(state.best_global_step))
        self.lifecycle.begin(state.max_steps, disk_needs([(model, optimizer)], self.merges))
        steps_an_epoch = len(train_dataloader) // args.gradient_accumulation_steps
        if (epochs := state.max_steps / max(steps_an_epoch, 1)) > MANY_EPOCHS:
            key = "max_steps" if args.max_steps > 0 else "num_train_epochs"
            self.lifecycle.console.say(
                f"warning: {state.max_steps:,} steps mean {epochs:,.0f} epochs over the "
                f"{len(train_dataloader.dataset):,} rows of data.train; lower trainer.{key}, or name more data"
            )
        self.throughput.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.lifecycle.console.show(state.global_step)
        self.throughput.end()
        stop = self.lifecycle.end_step(state.global_step)
        if stop:
            control.should_save = True
            control.should_training_stop = True
        if stop or state.global_step == state.max_steps:
            control.should_log = True  # steps not logged yet would be in no mean

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if self.lifecycle.stop_code and "train_loss" in logs:
            return  # the Trainer's summary, of a run that is not at its end
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not torch.tensor(float(logs[name])).isfinite():
                raise RunError(
                    f"{self.lifecycle.folder.path}: {name} is {logs[name]} at step {state.global_step}; lower "
                    "trainer.learning_rate or look at the data of that step (checkpoints from before it are intact)"
                )
        if "loss" in logs:
            logs |= self.throughput.figures(self.lifecycle.accelerator)
        if state.is_world_process_zero:
            logs.pop("num_tokens", None)  # TRL's count, which starts at 0 again when a run resumes
            row = {SECONDS.get(name, name): value for name, value in logs.items()}
            self.lifecycle.metrics.append({"step": state.global_step, **row})
        self.lifecycle.console.show(state.global_step, {name: logs[name] for name in WATCHED if name in logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        written = self.lifecycle.store.here / f"checkpoint-{state.global_step}"
        best = state.best_model_checkpoint
        self.lifecycle.seal(written, written, checkpoints.step_of(Path(best)) if best else None)
        self.throughput.begin()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.throughput.begin()


def fit(
    trainer: DealtBatches,
    lifecycle: Lifecycle,
    recipe: Any,
    tokenizer: PreTrainedTokenizerBase,
    before_saving: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end, from the last checkpoint if there is one; write `model/` and finish the run (collective)."""
    accelerator, resume_from = trainer.accelerator, lifecycle.resume_from
    trainer.batch, _ = batch_of(type(trainer.args), recipe.trainer)
    trainer.lifecycle = lifecycle
    trainer.remove_callback(PrinterCallback)
    logging.getLogger("transformers.trainer_utils").addFilter(is_shown)
    shard_model(trainer.model, accelerator)  # also makes adapters float32 again: TRL makes them bfloat16 on 4 bits
    trainer.add_callback(RunCallback(lifecycle, Throughput(trainer.model), merges=recipe.lora.merge))
    with lifecycle.interruptible(accelerator):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if lifecycle.stop_code:
        lifecycle.leave()
    before_saving()
    unset_hf_deepspeed_config()  # a base that adapters are merged into is loaded whole
    weights = sharding.full_weights(trainer.model_wrapped, accelerator)
    model = accelerator.unwrap_model(trainer.model)
    lifecycle.keep_model(
        "model", lambda partial: save_model(model, tokenizer, partial, merge=recipe.lora.merge, weights=weights)
    )
    lifecycle.finish()
