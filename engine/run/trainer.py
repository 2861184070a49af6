"""TRL's trainers inside a run folder: arguments from a recipe, the one callback, resume, and the finished model."""

import os
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
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from config.sections import TrainingRun
from engine.dist import sharding
from engine.dist.devices import compute_dtype
from engine.dist.ranks import check_all_ranks_joined, is_main_process, launched_ranks, leave_gloo_to_torch, leave_group
from engine.dist.shard_model import shard_model
from engine.errors import RunError
from engine.files import durable
from engine.models.adapters import base_of, is_adapter
from engine.models.loading import save_model
from engine.run import checkpoints, hub
from engine.run.batches import DealtBatches, batch_of, parts_a_step
from engine.run.checkpoint_store import CheckpointStore
from engine.run.console import Steps
from engine.run.folder import RunFolder
from engine.run.interruption import Interruption
from engine.run.metrics import MetricsLog
from engine.run.throughput import Throughput
from engine.run.time_limit import OUT_OF_TIME, TimeLimit

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
    path = recipe.model.path
    if recipe.lora.r and not recipe.lora.merge and is_adapter(path):
        raise RunError(
            f"lora.merge=false would keep an adapter of {base_of(path)} alone and lose model.path={path}, one of it "
            f'already; set lora.merge=true, or merge that first: make merge ARGS="{path} OUT"'
        )
    # transformers has renamed `gradient_checkpointing`; under that name, which TRL's default still goes by, it warns.
    settings = {
        "activation_checkpointing": recipe.trainer.get("gradient_checkpointing", True),
        "ddp_find_unused_parameters": False,  # every forward uses all that is trained
        **({"eval_strategy": "steps", "eval_steps": recipe.run.save_steps} if recipe.data.eval else {}),
        **ours,
        **recipe.trainer,
        "gradient_accumulation_steps": parts_a_step(*batch_of(config_class, recipe.trainer), launched_ranks()),
    }
    store = CheckpointStore(folder, recipe.run)
    if store.here != folder.path:  # else it would follow the checkpoints
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder.path / "runs"))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        leave_gloo_to_torch()
    try:
        made = config_class(
            output_dir=str(store.here),
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
        # Its state would have to be one number a weight (engine/run/zero_state.py).
        raise RunError(
            f"trainer.optim={made.optim.value} has no checkpoints under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2"
        )
    made._n_gpu = min(made.n_gpu, 1)  # a process takes one GPU, whatever it sees; else several would be DataParallel's
    return made


class RunCallback(TrainerCallback):
    """Metrics into the run folder, checkpoints sealed and kept, progress shown, a stop in time, nothing not finite."""

    interruption: Interruption
    throughput: Throughput
    """both set by `fit`, which has the processes and the model"""

    def __init__(self, stage: str, folder: RunFolder, run: TrainingRun):
        hub.refuse_without_token(run)
        self.stage, self.folder, self.run = stage, folder, run
        self.store, self.limit = CheckpointStore(folder, run), TimeLimit(run.max_hours)
        self.resume = checkpoints.to_resume(folder.recipe, *self.store.places)
        """the checkpoint to continue from"""
        self.stop = 0
        """the exit code of a run that has to leave before its end"""
        if is_main_process():
            self.store.open()
            at = checkpoints.step_of(self.resume) if self.resume else 0
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", at)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # where it lies may have changed since
            best = self.store.find(state.best_global_step)
            if best is None:
                raise RunError(
                    f"{self.folder.path}: checkpoint-{state.best_global_step}, the best so far, is gone; put it back, "
                    "or name another run.dir"
                )
            state.best_model_checkpoint = str(best)
        self.steps = Steps(self.stage, state.max_steps, state.global_step, speaks=state.is_world_process_zero)
        self.steps.start()
        self.limit.begin()
        self.throughput.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.show(state.global_step)
        self.throughput.end()
        self.limit.lap("step")
        self.limit.took("copy", self.store.copy_seconds)
        self.stop = self.interruption.noted()
        if self.stop == OUT_OF_TIME and state.global_step >= state.max_steps:
            self.stop = 0  # nothing is left to be continued
        if self.stop:
            control.should_save = control.should_training_stop = True
        if self.stop or state.global_step == state.max_steps:
            control.should_log = True  # what has not been logged yet is in no mean else

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if self.stop and "train_loss" in logs:
            return  # the summary of a run that is not at its end
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not torch.tensor(float(logs[name])).isfinite():
                raise RunError(
                    f"{self.folder.path}: {name} is {logs[name]} at step {state.global_step}; lower "
                    "trainer.learning_rate or look at the data of that step (checkpoints from before it are intact)"
                )
        if "loss" in logs:
            logs |= self.throughput.figures(self.interruption.accelerator)
        if state.is_world_process_zero:
            logs.pop("num_tokens", None)  # TRL's count, which starts at 0 again when a run resumes
            self.metrics.append({"step": state.global_step, **{SECONDS.get(k, k): v for k, v in logs.items()}})
        self.steps.show(state.global_step, {name: logs[name] for name in WATCHED if name in logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.interruption.accelerator.wait_for_everyone()  # each writes its part
        if state.is_world_process_zero:
            written, best = self.store.here / f"checkpoint-{state.global_step}", state.best_model_checkpoint
            checkpoints.seal(written, self.folder.recipe)
            self.store.keep(written, Path(best) if best else None)
        self.limit.lap("save")
        self.throughput.begin()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.throughput.begin()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps.stop()


def fit(
    trainer: DealtBatches,
    callback: RunCallback,
    recipe: Any,
    tokenizer: PreTrainedTokenizerBase,
    before_saving: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end, from the last checkpoint if there is one; write `model/` and mark the run as finished."""
    folder, accelerator = callback.folder, trainer.accelerator
    trainer.batch, _ = batch_of(type(trainer.args), recipe.trainer)
    if callback.resume:
        accelerator.print(f"{folder.path}: continuing from {callback.resume.name}", flush=True)
    trainer.remove_callback(PrinterCallback)
    shard_model(trainer.model, accelerator)  # also: TRL makes bfloat16 of adapters on a base in 4 bits
    with Interruption(accelerator, callback.limit) as interruption:
        callback.interruption, callback.throughput = interruption, Throughput(trainer.model)
        trainer.train(resume_from_checkpoint=str(callback.resume) if callback.resume else None)
    if trainer.is_world_process_zero():
        callback.store.wait()
    if callback.stop:
        interruption.leave(folder.path / f"checkpoint-{trainer.state.global_step}", callback.stop)
    before_saving()
    unset_hf_deepspeed_config()  # a base that adapters are merged into is loaded whole
    weights = sharding.full_weights(trainer.model_wrapped, accelerator)
    if trainer.is_world_process_zero():
        model = accelerator.unwrap_model(trainer.model)
        durable.write_folder(
            folder.model,
            lambda partial: save_model(model, tokenizer, partial, merge=recipe.lora.merge, weights=weights),
        )
        folder.finish(trainer.state.global_step, callback.metrics.elapsed_seconds)
        callback.store.clear()
    leave_group(accelerator)
    if is_main_process():
        hub.push_after(folder, callback.run)
