"""Checkpoints of a Trainer by parameter name, from which any number of ranks resumes under any sharding.

transformers' own checkpoints resume only under the sharding that wrote them, DeepSpeed's only with the same number of
ranks. transformers writes the weights of an unsharded model (for plain `from_pretrained`), so they are not written
twice. With adapters, whose names peft changes, only the trained weights are written, not the frozen base.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from engine.dist.sharding import sharding_of
from engine.run import training_state
from engine.run.lifecycle import Lifecycle

BY_NAME = "by_name"


class NamedCheckpoints(Trainer):
    """A Trainer that writes and reads its checkpoints by parameter name."""

    lifecycle: Lifecycle
    """the run's lifecycle; set before training begins"""
    # Set by the constructor, or at the start of the training.
    model: Any
    processing_class: Any
    data_collator: Any
    train_dataset: Any
    eval_dataset: Any
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LambdaLR

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: TRL would write a README for an unnamed model into the run folder."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = self.lifecycle.store.write_folder / f"checkpoint-{self.state.global_step}"
        with self.lifecycle.written_by_all(folder, folder):
            super()._save_checkpoint(model, trial)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Drop empty parameter groups, as DeepSpeed does (with adapters, the group without weight decay is empty)."""
        groups = super().create_optimizer(model).param_groups
        groups[:] = [group for group in groups if group["params"]]
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights under their names in the model; published files use other names if experts are fused."""
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        sharding = sharding_of(self.accelerator)
        training_state.write(
            Path(output_dir) / BY_NAME,
            self.model_wrapped,
            self.optimizer,
            sharding,
            weights=sharding.kind != "none" or isinstance(self.model, PeftModel),
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Train an epoch, unless the run has nothing left to train: it resumed from its last step."""
        if not self.control.should_training_stop:
            super()._run_epoch(*arguments, **options)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._read(resume_from_checkpoint)
            self.lr_scheduler.load_state_dict(torch.load(Path(resume_from_checkpoint) / SCHEDULER_NAME))
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Do nothing: weights are read together with the optimiser, once both are prepared."""

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        assert best is not None  # the Trainer calls this only if there is one
        self._read(best)

    def _read(self, checkpoint: str) -> None:
        sharding = sharding_of(self.accelerator)
        training_state.read(Path(checkpoint) / BY_NAME, self.model_wrapped, self.optimizer, sharding)
