"""What a run of supervised finetuning is made of."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from recipes.schema import Recipe, Section, number
from recipes.sections import ChatML, Lora, Model, Run, TooLong, data_inputs, model_inputs, sources
from recipes.trainer import check_trainer


@dataclass(frozen=True)
class Data(Section):
    train: Any = MISSING
    """conversations or plain text: a source or a list of them, see `recipes.sections.Source`"""
    eval: Any = None
    """what the loss is measured on besides, every `trainer.eval_steps`"""
    fields: dict[str, str] = field(default_factory=dict)
    """names in the records -> names that are known: {question: prompt, answer: response}"""
    too_long: TooLong = "cut_oldest_turns"
    """what happens to a conversation longer than max_length"""
    max_length: int = number(2048, least=16)
    """tokens in a conversation, and in a packed row (report, 3.1.2: 2048)"""
    packing: bool = True
    """several conversations share a row, none sees another"""

    def check(self, key: str) -> None:
        sources(self.train, f"{key}.train")
        sources(self.eval, f"{key}.eval")


@dataclass(frozen=True)
class SFT(Recipe):
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    chatml: ChatML = field(default_factory=ChatML)
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)
    trainer: dict[str, Any] = field(default_factory=dict)
    """any field of trl.SFTConfig that no other section decides"""

    def check(self, key: str) -> None:
        check_trainer(self.trainer, "SFTConfig", evaluates=self.data.eval is not None, owned={})

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from model_inputs(self.model.path, "model.path")
        yield from data_inputs(self.data.train, "data.train")
        yield from data_inputs(self.data.eval, "data.eval")
