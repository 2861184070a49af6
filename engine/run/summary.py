"""The summary that a training stage prints before its first step: data, steps, rates, weights, template and tokens."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any, cast

import torch
from transformers import Trainer
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from config.best import BestModel
from engine.data.chatml_section import ChatML

PLAN_HINT = "make plan with the same arguments estimates memory and hours"
# What a row of a stage's data is, packed or not.
ROWS = {"sft": "rows", "reward": "comparisons"}


def summary_text(run_dir: str, lines: Mapping[str, str]) -> str:
    """Return the summary: a line for every name and text, aligned."""
    return "\n".join([f"{run_dir}, before the first step:", *(f"  {name:<13} {text}" for name, text in lines.items())])


def trainer_summary(
    trainer: Trainer, steps_an_epoch: int, batch: int, recipe: Any, reports: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the summary of an SFT or reward run that is about to begin (rank 0 only).

    `batch` is the number of rows of a step over all ranks; `reports` are the counts of each data key (data.json).
    """
    args, train, noun = trainer.args, reports["train"], ROWS[recipe.stage]
    rows, steps = len(cast(Sized, trainer.train_dataset)), trainer.state.max_steps
    data = f"{train['kept']:,} records"
    if recipe.stage == "sft":
        data += f" in {rows:,} {'packed ' * recipe.data.packing}rows of up to {recipe.data.max_length:,} tokens"
    lines = {"data": data}
    if "eval" in reports:
        schedules = {"steps": f"evaluated every {trainer.state.eval_steps:,} steps", "epoch": "evaluated every epoch"}
        schedule = schedules.get(IntervalStrategy(args.eval_strategy).value, "not evaluated")
        if best_section(recipe).keep_best and recipe.run.save_steps > steps:
            schedule = f"evaluated after the last step only, as run.save_steps={recipe.run.save_steps}"
        lines["held out"] = f"{reports['eval']['kept']:,} records, {schedule}{best_text(recipe)}"
    epochs, model = steps / steps_an_epoch, cast(torch.nn.Module, trainer.model)
    lines |= {
        "steps": f"{steps:,}, which are {epochs:.3g} epochs of {steps_an_epoch:,} steps; "
        f"{min(batch, rows):,} {noun} a step",
        "learning rate": f"{args.learning_rate:g}, {SchedulerType(args.lr_scheduler_type).value}",
        "weights": weights_text(model.parameters()) + (f", LoRA of rank {recipe.lora.r}" * bool(recipe.lora.r)),
        "template": template_text(recipe.chatml),
        "cost": f"{train['tokens'] * epochs:,.0f} tokens; {PLAN_HINT}",
    }
    return summary_text(recipe.run.dir, lines)


def best_section(recipe: Any) -> BestModel:
    """Return the section that has `keep_best` and `patience`."""
    return recipe.sft if recipe.stage == "sft" else recipe.reward


def best_text(recipe: Any) -> str:
    """Return the clause about the best checkpoint and early stopping."""
    best = best_section(recipe)
    kept = ", the best checkpoint is kept" if best.keep_best else ""
    return kept + (f", the run ends after {best.patience} without a better one" if best.patience else "")


def weights_text(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Return how many of a model's weights are trained; a sharded model's are counted over all ranks."""
    counts = [(size(parameter), parameter.requires_grad) for parameter in parameters]
    every, trained = sum(count for count, _ in counts), sum(count for count, trains in counts if trains)
    return f"{trained:,} of {every:,} trained ({trained / every:.2%})"


def size(parameter: torch.nn.Parameter) -> int:
    """Return the number of weights in a parameter, whole although it is sharded by DeepSpeed or stored in 4 bits."""
    stored = getattr(parameter, "quant_state", None)
    return stored.shape.numel() if stored is not None else getattr(parameter, "ds_numel", parameter.numel())


def template_text(chatml: ChatML) -> str:
    """Return how conversations are written: the template, and the system prompt of those without one."""
    prompt = "none (chatml.system)" if chatml.system is None else repr(chatml.system)
    kept = ", also in the saved template" if chatml.keep_system else ""
    return f"ChatML, tools as {chatml.tools}; system prompt of conversations without one: {prompt}{kept}"
