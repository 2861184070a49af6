"""Run TRL's trainers in a run folder: arguments from a recipe, callback, resume, and the finished model."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.training_args import OptimizerNames

from config.best import BestModel
from config.sections import TrainingRun
from config.trainer import MANY_EPOCHS
from engine.compat import use_one_gpu
from engine.data.many_epochs import LIMIT
from engine.dist import sharding
from engine.dist.devices import compute_dtype
from engine.dist.ranks import (
    check_all_ranks_joined,
    disable_deepspeed_shared_memory,
    is_main_process,
    launched_ranks,
)
from engine.dist.shard_model import shard_model
from engine.errors import RunError
from engine.models.adapters import base_of, is_adapter
from engine.models.saving import save_model
from engine.run import checkpoints
from engine.run.batches import RankBatchTrainer, accumulation_steps, batch_sizes
from engine.run.best import describe_stop, is_spent
from engine.run.disk_space import disk_needs
from engine.run.lifecycle import Lifecycle
from engine.run.summary import trainer_summary
from engine.run.throughput import Throughput

ArgumentsT = TypeVar("ArgumentsT", bound=TrainingArguments)
# Keys that transformers logs -> names in metrics.jsonl, where timings contain `seconds`.
METRIC_NAMES = {"train_runtime": "train_seconds", "eval_runtime": "eval_seconds"}
# Metrics shown on the console.
CONSOLE_METRICS = ("loss", "accuracy", "eval_loss", "eval_accuracy")


def training_arguments(config_class: type[ArgumentsT], recipe: Any, lifecycle: Lifecycle, **ours: Any) -> ArgumentsT:
    """Return the trainer's configuration, from the recipe's `trainer` section and its other sections.

    With `data.eval` the model is evaluated at every checkpoint, unless the recipe sets another schedule. The batch size
    does not depend on the number of ranks: gradient accumulation steps are derived from both. `ours` are settings of
    the stage, which `trainer` overrides.

    Raises RunError for values that TRL rejects, and if not all launched ranks have joined.
    """
    path = recipe.model.path
    if recipe.lora.r and not recipe.lora.merge and is_adapter(path):
        raise RunError(
            f"lora.merge=false would save an adapter of {base_of(path)} and lose model.path={path}, which is itself an "
            f'adapter of it; set lora.merge=true, or merge it first: make merge ARGS="{path} OUT"'
        )
    # transformers has renamed `gradient_checkpointing` and warns about the old name, which TRL still uses by default.
    settings = {
        "activation_checkpointing": recipe.trainer.get("gradient_checkpointing", True),
        "ddp_find_unused_parameters": False,  # every forward pass uses all trained weights
        **({"eval_strategy": "steps", "eval_steps": recipe.run.save_steps} if recipe.data.eval else {}),
        **ours,
        **recipe.trainer,
        "gradient_accumulation_steps": accumulation_steps(*batch_sizes(config_class, recipe.trainer), launched_ranks()),
    }
    folder, output = lifecycle.folder.path, lifecycle.store.write_folder
    if output != folder:  # otherwise tensorboard's files would be written beside the checkpoints
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "runs"))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        disable_deepspeed_shared_memory()
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
        # Checkpoints under ZeRO support AdamW's moments only (engine/run/zero_state.py).
        name = OptimizerNames(made.optim).value
        raise RunError(f"trainer.optim={name} cannot be saved under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2")
    use_one_gpu(made)
    return made


def best_by(metric: str, section: BestModel, run: TrainingRun) -> dict[str, Any]:
    """Return the trainer arguments for `keep_best`: evaluate at every checkpoint, keep the best by eval_`metric`."""
    if not section.keep_best:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": run.save_steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
    }


def is_shown(record: logging.LogRecord) -> bool:
    """Return whether to show a line of transformers' log: all but that arguments differ from those of a checkpoint."""
    return "do not match the ones in the `trainer_state.json`" not in record.getMessage()


def refuse_without_gpu(section: dict[str, Any]) -> None:
    """Raise RunError if the recipe's `trainer` section needs a GPU and there is none; call it before loading models."""
    if section.get("activation_offloading") and not torch.cuda.is_available():
        raise RunError(
            "trainer.activation_offloading=true moves activations from a GPU to CPU memory, and there is no GPU; "
            "leave it out"
        )


class RunCallback(TrainerCallback):
    """Connect a trainer's events to the run's lifecycle. Raises RunError if a loss or gradient norm is not finite."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        throughput: Throughput,
        *,
        merges: bool,
        patience: int | None,
        summary: Callable[[int], str],
    ):
        """`summary` returns what is printed before the first step, given the steps of an epoch."""
        self.lifecycle, self.throughput, self.merges, self.patience = lifecycle, throughput, merges, patience
        self.summary = summary

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        train_dataloader = given["train_dataloader"]
        # A resumed state has the number of steps of the recipe that it was written under.
        state.compute_steps(args, state.max_steps)
        if state.best_global_step:  # its folder may have changed since it was written
            state.best_model_checkpoint = str(self.lifecycle.find_best(state.best_global_step))
        self.resumed_at = state.global_step
        self.lifecycle.begin(state.max_steps, disk_needs([(given["model"], given["optimizer"])], self.merges))
        steps_an_epoch = max(len(train_dataloader) // args.gradient_accumulation_steps, 1)
        if is_main_process():
            self.lifecycle.console.say(self.summary(steps_an_epoch))
        if (epochs := state.max_steps / steps_an_epoch) > MANY_EPOCHS:
            key = "max_steps" if args.max_steps > 0 else "num_train_epochs"
            self.lifecycle.console.say(
                f"warning: {state.max_steps:,} steps mean {epochs:,.0f} epochs over the "
                f"{len(train_dataloader.dataset):,} rows of data.train; {LIMIT}; lower trainer.{key}, "
                "or name more data"
            )
        if state.global_step >= state.max_steps:  # it was killed between its last checkpoint and its end
            control.should_training_stop = True
        self.stop_early(args, state, control)
        self.throughput.begin()

    def stop_early(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Stop training if the last `patience` checkpoints were no better than the best."""
        if self.patience is None:
            return
        if is_spent(self.patience, state.global_step, state.best_global_step or 0, int(args.save_steps)):
            control.should_training_stop = True
            metric = f"eval_{args.metric_for_best_model}"
            text = describe_stop(metric, state.global_step, state.best_global_step, self.patience)
            self.lifecycle.console.say(text)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.lifecycle.console.show(state.global_step)
        self.throughput.end()
        stop = self.lifecycle.end_step(state.global_step)
        if stop:
            control.should_save = True
            control.should_training_stop = True
        may_end = self.patience is not None and control.should_evaluate
        if stop or may_end or state.global_step == state.max_steps:
            control.should_log = True  # otherwise the last steps would not be in any logged mean

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, Any] = given["logs"]
        if "train_loss" in logs and (self.lifecycle.stop_code or state.global_step == self.resumed_at):
            return  # the Trainer's final summary, although the run has not ended or this process has not trained
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not torch.tensor(float(logs[name])).isfinite():
                raise RunError(
                    f"{self.lifecycle.folder.path}: {name} is {logs[name]} at step {state.global_step}; lower "
                    "trainer.learning_rate or check the data of that step (earlier checkpoints are intact)"
                )
        if "loss" in logs:
            logs |= self.throughput.figures(self.lifecycle.accelerator)
        if state.is_world_process_zero:
            logs.pop("num_tokens", None)  # TRL's count, which restarts at 0 when a run resumes
            row = {METRIC_NAMES.get(name, name): value for name, value in logs.items()}
            self.lifecycle.metrics.append({"step": state.global_step, **row})
        self.lifecycle.console.show(state.global_step, {name: logs[name] for name in CONSOLE_METRICS if name in logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        written = self.lifecycle.store.write_folder / f"checkpoint-{state.global_step}"
        best = state.best_model_checkpoint
        self.lifecycle.seal(written, written, checkpoints.step_of(Path(best)) if best else None)
        self.stop_early(args, state, control)
        self.throughput.begin()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.throughput.begin()


def fit(
    trainer: RankBatchTrainer,
    lifecycle: Lifecycle,
    recipe: Any,
    tokenizer: PreTrainedTokenizerBase,
    best: BestModel,
    before_saving: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end, resuming from the last checkpoint if any; write `model/` and finish the run (collective).

    `best` is the recipe's section with `keep_best` and `patience`. `before_saving` is called after training, before the
    model is written. Raises SystemExit if the run must stop early.
    """
    accelerator, resume_from = trainer.accelerator, lifecycle.resume_from
    trainer.batch, _ = batch_sizes(type(trainer.args), recipe.trainer)
    trainer.lifecycle = lifecycle
    trainer.remove_callback(PrinterCallback)
    logging.getLogger("transformers.trainer_utils").addFilter(is_shown)
    shard_model(trainer.model, accelerator)  # also makes adapters float32: TRL makes them bfloat16 on a 4-bit base
    trainer.add_callback(
        RunCallback(
            lifecycle,
            Throughput(trainer.model),
            merges=recipe.lora.merge,
            patience=best.patience,
            summary=lambda steps: trainer_summary(trainer, steps, trainer.batch, recipe, lifecycle.folder.reports),
        )
    )
    with lifecycle.interruptible(accelerator):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if lifecycle.stop_code:
        lifecycle.leave()
    before_saving()
    unset_hf_deepspeed_config()  # the base that adapters are merged into must be loaded unsharded
    weights = sharding.full_weights(trainer.model_wrapped, accelerator)
    model = accelerator.unwrap_model(trainer.model)
    lifecycle.write_model(
        "model", lambda partial: save_model(model, tokenizer, partial, merge=recipe.lora.merge, weights=weights)
    )
    lifecycle.finish(chosen_checkpoint(trainer) if best.keep_best and is_main_process() else None)


def chosen_checkpoint(trainer: RankBatchTrainer) -> dict[str, Any]:
    """Return the description of the checkpoint that the model is from, as `Best.as_dict` (rank 0 only)."""
    metric, state = f"eval_{trainer.args.metric_for_best_model}", trainer.state
    measured = sum(metric in row for row in trainer.lifecycle.metrics.rows)
    return {"step": state.best_global_step, "metric": metric, "value": state.best_metric, "measured": measured}
