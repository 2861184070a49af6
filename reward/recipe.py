"""The recipe of both preference-model pretraining (PMP) and reward-model finetuning (report, 3.2.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from config.best import BestModel
from config.data import TrainingData
from config.schema import Recipe, RecipeError, Stage, number, setting
from config.sections import Lora, Model, TrainingRun, model_inputs
from config.trainer import MEMORY_ADVICE, check_trainer, fixed_fields, trainer_mapping
from engine.data.chatml_section import ChatML
from engine.data.many_epochs import many_epochs


@dataclass(frozen=True)
class RewardTraining(BestModel):
    margin_coef: float = number(0.0, least=0)
    """weight in the loss of a comparison's `margin`, by which the chosen response must score higher (Touvron et al.
    2023, eq. 2; not in the report)"""
    share_prompts: bool = setting(True, changeable=True)
    """compute the prefix that both responses of a comparison share only once; changes memory and speed only"""


@dataclass(frozen=True)
class Reward(Recipe):
    STAGE: ClassVar[Stage] = "reward"

    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    chatml: ChatML = field(default_factory=ChatML)
    data: TrainingData = field(default_factory=TrainingData)
    run: TrainingRun = field(default_factory=TrainingRun)
    reward: RewardTraining = field(default_factory=RewardTraining)
    trainer: dict[str, Any] = trainer_mapping("RewardConfig")
    """any field of trl.RewardConfig that no other section decides"""

    def check(self, key: str) -> None:
        evaluates = self.data.eval is not None
        self.reward.check_evaluates("reward", evaluates)
        if self.reward.share_prompts and self.model.attention not in ("auto", "packed"):
            raise RecipeError(
                f"reward.share_prompts=true needs model.attention=packed (or auto), not {self.model.attention}; "
                "change either",
                key="reward.share_prompts",
            )
        check_trainer(self.trainer, "RewardConfig", evaluates=evaluates, owned=self.reward.owned_fields("reward"))

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from model_inputs(self.model.path, "model.path")
        yield from self.data.inputs()

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        return fixed_fields(self.trainer, before["trainer"]) | self.reward.fixed_keys("reward")

    def warnings(self) -> Iterator[str]:
        yield from many_epochs(self.trainer, self.data)

    def memory_advice(self) -> str:
        return MEMORY_ADVICE
