"""What an evaluation is made of: the models that a pipeline left, and what they are measured on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from recipes.data import Data, named_sources
from recipes.schema import Recipe, Section, number
from recipes.sections import Attention, ChatML, Dtype, Run, Sampling, check_function, model_inputs, model_paths


@dataclass(frozen=True)
class Compute(Section):
    dtype: Dtype = "auto"
    """type the models are held in; auto is bfloat16 on a GPU that is good at it, float32 elsewhere"""
    attention: Attention = "auto"
    """auto is flash-attn where it is installed and the device can run it, torch's own elsewhere"""


@dataclass(frozen=True)
class Subjects(Section):
    sft: str = MISSING
    """the policy before PPO, and its reference"""
    ppo: str | None = None
    """the policy after PPO"""
    base: str | None = None
    """the model before SFT, for its perplexity on pretraining text"""
    pmp: str | None = None
    """the preference model, for its accuracy beside the reward model's"""
    reward: Any = None
    """the reward model, or a list of them: accuracy, scores of answers, best of n"""
    gold: str | None = None
    """function that knows how good an answer is, "module:function"; takes a record and an answer, returns its parts"""
    best_of_n: int = number(8, least=1)
    """answers of the SFT model that the reward model chooses from"""
    prompts_limit: int | None = number(None, least=1)
    """only this many prompts from the front"""

    def check(self, key: str) -> None:
        if self.reward is not None:
            model_paths(self.reward, f"{key}.reward")
        if self.gold is not None:
            check_function(self.gold, f"{key}.gold")


@dataclass(frozen=True)
class EvalData(Data):
    prompts: Any = named_sources(MISSING)
    """what is asked: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    pairs: Any = named_sources()
    """held-out comparisons that the reward models' accuracy is measured on"""
    correctness_pairs: Any = named_sources()
    """held-out comparisons whose sides differ in correctness alone"""
    pretrain: Any = named_sources()
    """held-out plain text for perplexity"""
    max_prompt_tokens: int = number(1024, least=16)
    """tokens in a prompt, the opening of the answer included"""
    max_length: int = number(2048, least=16)
    """tokens in one side of a comparison, and in a piece of text"""


@dataclass(frozen=True)
class Eval(Recipe):
    eval: Subjects = field(default_factory=Subjects)
    model: Compute = field(default_factory=Compute)
    chatml: ChatML = field(default_factory=ChatML)
    data: EvalData = field(default_factory=EvalData)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name in ("sft", "ppo", "base", "pmp", "reward"):
            path = getattr(self.eval, name)
            if path is not None:
                yield from model_inputs(path, f"eval.{name}")
        yield from self.data.inputs()

    def memory_advice(self) -> str:
        return "lower sampling.batch_size (no answer changes by it), or data.max_length"
