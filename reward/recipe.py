"""The recipe of both preference-model pretraining (PMP) and reward-model finetuning (report, 3.2.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from config.data import TrainingData
from config.schema import Recipe, RecipeError, Section, number, setting
from config.sections import Lora, Model, TrainingRun, model_inputs
from config.trainer import MEMORY_ADVICE, check_trainer, fixed_fields, trainer_mapping
from engine.data.chatml_section import ChatML

# Fields of trl.RewardConfig that reward.keep_best decides, and those that it sets to evaluate at every checkpoint.
BEST_MODEL_FIELDS = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
EVALUATION_FIELDS = ("eval_strategy", "eval_steps")


@dataclass(frozen=True)
class RewardTraining(Section):
    keep_best: bool = False
    """save the checkpoint with the best accuracy on data.eval as the model, instead of the last one"""
    margin_coef: float = number(0.0, least=0)
    """weight in the loss of a comparison's `margin`, by which the chosen response must score higher (Touvron et al.
    2023, eq. 2; not in the report)"""
    share_prompts: bool = setting(True, changeable=True)
    """compute the prefix that both responses of a comparison share only once; changes memory and speed only"""


@dataclass(frozen=True)
class Reward(Recipe):
    STAGE: ClassVar[str] = "reward"

    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    chatml: ChatML = field(default_factory=ChatML)
    data: TrainingData = field(default_factory=TrainingData)
    run: TrainingRun = field(default_factory=TrainingRun)
    reward: RewardTraining = field(default_factory=RewardTraining)
    trainer: dict[str, Any] = trainer_mapping("RewardConfig")
    """any field of trl.RewardConfig that no other section decides"""

    def check(self, key: str) -> None:
        if self.reward.keep_best and self.data.eval is None:
            raise RecipeError(
                "reward.keep_best is true, but there are no comparisons to evaluate on; "
                "give data.eval, or set reward.keep_best=false",
                key="reward.keep_best",
            )
        if self.reward.share_prompts and self.model.attention not in ("auto", "packed"):
            raise RecipeError(
                f"reward.share_prompts=true needs model.attention=packed (or auto), not {self.model.attention}; "
                "change either",
                key="reward.share_prompts",
            )
        owned = dict.fromkeys(BEST_MODEL_FIELDS, "reward.keep_best")
        if self.reward.keep_best:
            owned |= dict.fromkeys(EVALUATION_FIELDS, "run.save_steps")
        check_trainer(self.trainer, "RewardConfig", evaluates=self.data.eval is not None, owned=owned)

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from model_inputs(self.model.path, "model.path")
        yield from self.data.inputs()

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        fixed = fixed_fields(self.trainer, before["trainer"])
        if self.reward.keep_best:
            fixed["run.save_steps"] = "reward.keep_best chooses among the checkpoints"
        return fixed

    def memory_advice(self) -> str:
        return MEMORY_ADVICE
