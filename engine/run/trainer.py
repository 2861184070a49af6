"""TRL's trainers inside a run folder: arguments from a recipe, the one callback, resume, and the finished model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from engine.models.loading import save_model
from engine.run import checkpoints, durable
from engine.run.console import Steps
from engine.run.devices import compute_dtype
from engine.run.folder import RunError, RunFolder
from engine.run.metrics import MetricsLog

# What transformers names otherwise: our timings hold `seconds`.
SECONDS = {"train_runtime": "train_seconds", "eval_runtime": "eval_seconds"}
# What is worth a look while a trainer runs.
WATCHED = ("loss", "accuracy", "eval_loss", "eval_accuracy")


def arguments(config_class: type[TrainingArguments], recipe: Any, folder: RunFolder, **ours: Any) -> TrainingArguments:
    """The trainer's configuration: the recipe's `trainer` section, and what our own sections decide.

    Where there is data to evaluate on, that happens at every checkpoint unless the recipe says otherwise.
    """
    # transformers has renamed `gradient_checkpointing`; under that name, which TRL's default still goes by, it warns.
    settings = {
        "activation_checkpointing": recipe.trainer.get("gradient_checkpointing", True),
        "ddp_find_unused_parameters": False,  # every forward uses all that is trained
        **({"eval_strategy": "steps", "eval_steps": recipe.run.save_steps} if recipe.data.eval else {}),
        **ours,
        **recipe.trainer,
    }
    try:
        return config_class(
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


class RunCallback(TrainerCallback):
    """Metrics into the run folder, checkpoints sealed and pruned, progress shown, what is not finite refused."""

    def __init__(self, stage: str, folder: RunFolder, keep: int):
        self.stage, self.folder, self.keep = stage, folder, keep
        checkpoints.discard_partial(folder.path)
        self.resume = checkpoints.to_resume(folder)
        """the checkpoint to continue from"""
        self.metrics = MetricsLog(folder.path / "metrics.jsonl", checkpoints.step_of(self.resume) if self.resume else 0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps = Steps(self.stage, state.max_steps, state.global_step, speaks=state.is_world_process_zero)
        self.steps.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.show(state.global_step)

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
            checkpoints.seal(self.folder.path / f"checkpoint-{state.global_step}", self.folder.recipe)
            best = state.best_model_checkpoint
            checkpoints.prune(self.folder.path, self.keep, Path(best) if best else None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.stop()


def fit(
    trainer: Trainer,
    callback: RunCallback,
    tokenizer: PreTrainedTokenizerBase,
    merge: bool,
    before_saving: Callable[[PreTrainedModel], None] = lambda model: None,
) -> None:
    """Train to the end, from the last checkpoint if there is one; write `model/` and mark the run as finished.

    `merge` says whether adapters are merged into the model that is written.
    """
    folder = callback.folder
    if callback.resume:
        print(f"{folder.path}: continuing from {callback.resume.name}", flush=True)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(callback.resume) if callback.resume else None)
    model = trainer.accelerator.unwrap_model(trainer.model)
    before_saving(model)
    if trainer.is_world_process_zero():
        durable.write_folder(folder.model, lambda partial: save_model(model, tokenizer, partial, merge=merge))
        folder.finish(trainer.state.global_step, callback.metrics.elapsed_seconds)
