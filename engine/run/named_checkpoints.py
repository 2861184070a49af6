"""A Trainer's checkpoints by parameter name, so that processes of any number and kind go on from them.

transformers' own go on under the kind of sharding that wrote them, DeepSpeed's in as many processes as well. A model
that is not sharded has its weights where transformers puts them, for plain `from_pretrained`, and they are not written
again; of adapters, which peft names otherwise, the frozen base is not written.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from engine.dist import sharding
from engine.run import training_state

BY_NAME = "by_name"


class NamedCheckpoints(Trainer):
    """The part of a trainer that writes and reads them."""

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Without groups of no weights (no part of an adapter is spared weight decay), which DeepSpeed leaves out."""
        groups = super().create_optimizer(model).param_groups
        groups[:] = [group for group in groups if group["params"]]
        return self.optimizer

    def _save(self, output_dir: str, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Weights under their own names: published ones have others where a layer's experts are one weight here."""
        if self.args.should_save:
            self.model.save_pretrained(output_dir, state_dict=state_dict, save_original_format=False)
            self.processing_class.save_pretrained(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        now = sharding.sharding_of(self.accelerator)
        written = now.kind == "none" and not isinstance(self.model, PeftModel)
        training_state.write(Path(output_dir) / BY_NAME, self.model_wrapped, self.optimizer, now, weights=not written)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._read(resume_from_checkpoint)
            self.lr_scheduler.load_state_dict(torch.load(Path(resume_from_checkpoint) / SCHEDULER_NAME))
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Nothing yet: weights are read with their optimiser, once both are prepared."""

    def _load_best_model(self) -> None:
        self._read(self.state.best_model_checkpoint)

    def _read(self, checkpoint: str) -> None:
        training_state.read(
            Path(checkpoint) / BY_NAME, self.model_wrapped, self.optimizer, sharding.sharding_of(self.accelerator)
        )
