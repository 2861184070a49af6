"""The recipe of supervised finetuning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from config.best import BestModel
from config.data import TrainingData
from config.schema import Recipe, Stage
from config.sections import Lora, Model, TrainingRun, model_inputs
from config.trainer import MEMORY_ADVICE, check_trainer, fixed_fields, trainer_mapping
from engine.data.chatml_section import ChatML
from engine.data.many_epochs import many_epochs


@dataclass(frozen=True)
class Data(TrainingData):
    packing: bool = True
    """pack several conversations into a row; attention does not cross from one to another"""


@dataclass(frozen=True)
class SFT(Recipe):
    STAGE: ClassVar[Stage] = "sft"

    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    chatml: ChatML = field(default_factory=ChatML)
    data: Data = field(default_factory=Data)
    run: TrainingRun = field(default_factory=TrainingRun)
    sft: BestModel = field(default_factory=BestModel)
    trainer: dict[str, Any] = trainer_mapping("SFTConfig")
    """any field of trl.SFTConfig that no other section decides"""

    def check(self, key: str) -> None:
        evaluates = self.data.eval is not None
        self.sft.check_evaluates("sft", evaluates)
        check_trainer(self.trainer, "SFTConfig", evaluates=evaluates, owned=self.sft.owned_fields("sft"))

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from model_inputs(self.model.path, "model.path")
        yield from self.data.inputs()

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        return fixed_fields(self.trainer, before["trainer"]) | self.sft.fixed_keys("sft")

    def warnings(self) -> Iterator[str]:
        yield from many_epochs(self.trainer, self.data)

    def memory_advice(self) -> str:
        return MEMORY_ADVICE
