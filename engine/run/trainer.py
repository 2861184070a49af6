"""TRL's trainers inside a run folder: arguments from a recipe, the one callback, resume, and the finished model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from engine.models.loading import save_model
from engine.run import checkpoints, durable, sharding
from engine.run.batches import DealtBatches, batch_of, parts_a_step
from engine.run.console import Steps
from engine.run.devices import check_processes, compute_dtype, launched, leave
from engine.run.folder import RunError, RunFolder, is_main_process
from engine.run.metrics import MetricsLog

# What transformers names otherwise: our timings hold `seconds`.
SECONDS = {"train_runtime": "train_seconds", "eval_runtime": "eval_seconds"}
# What is worth a look while a trainer runs.
WATCHED = ("loss", "accuracy", "eval_loss", "eval_accuracy")


def arguments(config_class: type[TrainingArguments], recipe: Any, folder: RunFolder, **ours: Any) -> TrainingArguments:
    """The trainer's configuration: the recipe's `trainer` section, and what our own sections decide.

    Where there is data to evaluate on, that happens at every checkpoint unless the recipe says otherwise. The batch is
    the recipe's; how many parts each process takes of it follows from their number. Raises RunError, also if not all
    processes that were launched are there.
    """
    # transformers has renamed `gradient_checkpointing`; under that name, which TRL's default still goes by, it warns.
    settings = {
        "activation_checkpointing": recipe.trainer.get("gradient_checkpointing", True),
        "ddp_find_unused_parameters": False,  # every forward uses all that is trained
        **({"eval_strategy": "steps", "eval_steps": recipe.run.save_steps} if recipe.data.eval else {}),
        **ours,
        **recipe.trainer,
        "gradient_accumulation_steps": parts_a_step(*batch_of(config_class, recipe.trainer), launched()),
    }
    try:
        made = config_class(
            output_dir=str(folder.path),
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
    check_processes(made.world_size)
    if recipe.lora.r and made.deepspeed_plugin is not None and made.deepspeed_plugin.zero_stage == 3:
        # peft reads the rows that it trains of a vocabulary on a GPU alone there; not tried on one.
        raise RunError(f"lora.r is {recipe.lora.r}, but ZeRO-3 takes no adapters here; use HARDWARE=fsdp2 or zero2")
    made._n_gpu = min(made.n_gpu, 1)  # a process takes one GPU, whatever it sees; else several would be DataParallel's
    return made


class RunCallback(TrainerCallback):
    """Metrics into the run folder, checkpoints sealed and pruned, progress shown, what is not finite refused."""

    def __init__(self, stage: str, folder: RunFolder, keep: int):
        self.stage, self.folder, self.keep = stage, folder, keep
        self.resume = checkpoints.to_resume(folder)
        """the checkpoint to continue from"""
        if is_main_process():
            checkpoints.discard_partial(folder.path)
            at = checkpoints.step_of(self.resume) if self.resume else 0
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", at)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps = Steps(self.stage, state.max_steps, state.global_step, speaks=state.is_world_process_zero)
        self.steps.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.show(state.global_step)
        control.should_log |= state.global_step == state.max_steps  # what has not been logged yet is in no mean else

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not torch.tensor(float(logs[name])).isfinite():
                raise RunError(
                    f"{self.folder.path}: {name} is {logs[name]} at step {state.global_step}; lower "
                    "trainer.learning_rate or look at the data of that step (checkpoints from before it are intact)"
                )
        if state.is_world_process_zero:
            logs.pop("num_tokens", None)  # TRL's count, which starts at 0 again when a run resumes
            self.metrics.append({"step": state.global_step, **{SECONDS.get(k, k): v for k, v in logs.items()}})
        self.steps.show(state.global_step, {name: logs[name] for name in WATCHED if name in logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            written = self.folder.path / f"checkpoint-{state.global_step}"
            sharding.note(written, self.sharding)
            checkpoints.seal(written, self.folder.recipe)
            best = state.best_model_checkpoint
            checkpoints.prune(self.folder.path, self.keep, Path(best) if best else None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.stop()


def fit(
    trainer: DealtBatches,
    callback: RunCallback,
    recipe: Any,
    tokenizer: PreTrainedTokenizerBase,
    before_saving: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end, from the last checkpoint if there is one; write `model/` and mark the run as finished.

    Raises RunError where the checkpoint was written under a sharding that this run does not have.
    """
    folder, accelerator = callback.folder, trainer.accelerator
    trainer.batch, _ = batch_of(type(trainer.args), recipe.trainer)
    callback.sharding = sharding.of(accelerator)
    sharding.refuse_tied_adapters(trainer)
    if callback.resume:
        sharding.check(callback.resume, callback.sharding)
        accelerator.print(f"{folder.path}: continuing from {callback.resume.name}", flush=True)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(callback.resume) if callback.resume else None)
    before_saving()
    weights = sharding.whole_weights(trainer)
    if trainer.is_world_process_zero():
        model = accelerator.unwrap_model(trainer.model)
        durable.write_folder(
            folder.model,
            lambda partial: save_model(model, tokenizer, partial, merge=recipe.lora.merge, weights=weights),
        )
        folder.finish(trainer.state.global_step, callback.metrics.elapsed_seconds)
    leave(accelerator)
