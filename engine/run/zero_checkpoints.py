"""A Trainer's checkpoints under DeepSpeed's ZeRO, by parameter name, so that any number of processes goes on from them.

DeepSpeed's own go on in the number that wrote them. Of adapters the frozen base is not written.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from engine.run import sharding, training_state


class ZeroCheckpoints(Trainer):
    """The part of a trainer that writes and reads them; without DeepSpeed it is transformers'."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        training_state.write(
            Path(output_dir) / training_state.WEIGHTS, self.model_wrapped, self.optimizer, sharding.of(self.accelerator)
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._read(resume_from_checkpoint)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)  # under DeepSpeed the schedule alone
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        return prepared

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:
            self._read(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _read(self, checkpoint: str) -> None:
        training_state.read(
            Path(checkpoint) / training_state.WEIGHTS, self.model_wrapped, self.optimizer, sharding.of(self.accelerator)
        )
