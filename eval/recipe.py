"""What an evaluation is made of: the models that a pipeline left, and what they are measured on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from config.data import Data, Source, data_inputs, named_sources, sources
from config.schema import Recipe, RecipeError, Section, number
from config.scoring import Scoring, check_function, scoring
from config.sections import Attention, ChatML, Dtype, Run, Sampling, model_inputs


@dataclass(frozen=True)
class Compute(Section):
    dtype: Dtype = "auto"
    """type the models are held in; auto is bfloat16 on a GPU that is good at it, float32 elsewhere"""
    attention: Attention = "auto"
    """auto is flash-attn where it is installed and the device can run it, torch's own elsewhere"""


@dataclass(frozen=True)
class Subjects(Section):
    sft: str | None = None
    """the policy before PPO, and its reference; without it no answers are sampled, and reward models alone measured"""
    ppo: str | None = None
    """the policy after PPO"""
    base: str | None = None
    """the model before SFT, for its perplexity on pretraining text"""
    pmp: str | None = None
    """the preference model, for its accuracy beside the reward model's"""
    reward: Any = None
    """the reward model: accuracy, scores of answers, best of n; a path, a list of them, or a mapping with the keys of
    PPO's section `reward`"""
    rewards: dict[str, Any] = field(default_factory=dict)
    """more reward models by name, for their accuracy on comparisons: {name: what `reward` takes}"""
    gold: str | None = None
    """function that knows how good an answer is, "module:function"; takes a record and an answer, returns its parts"""
    best_of_n: int = number(8, least=1)
    """answers of the SFT model that the reward model chooses from"""
    prompts_limit: int | None = number(None, least=1)
    """only this many prompts from the front"""

    def check(self, key: str) -> None:
        self.reward_models()
        for name in self.rewards.keys() & {"pmp", "rm"}:
            raise RecipeError(
                f"{key}.rewards.{name} has the name of {key}.{'pmp' if name == 'pmp' else 'reward'}; choose another",
                key=f"{key}.rewards",
            )
        if self.gold is not None:
            check_function(self.gold, f"{key}.gold")

    def reward_models(self) -> dict[str, Scoring]:
        """key -> what scores, of all that are named."""
        given = {"eval.pmp": self.pmp, "eval.reward": self.reward}
        given |= {f"eval.rewards.{name}": value for name, value in self.rewards.items()}
        return {key: scoring(value, key) for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class EvalData(Data):
    prompts: Any = named_sources()
    """what is asked: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    pairs: Any = named_sources()
    """held-out comparisons that the reward models' accuracy is measured on"""
    correctness_pairs: Any = named_sources()
    """held-out comparisons whose sides differ in correctness alone"""
    comparisons: dict[str, Any] = field(default_factory=dict)
    """more sets of held-out comparisons by name: {name: source, or a list of them}"""
    pretrain: Any = named_sources()
    """held-out plain text for perplexity"""
    max_prompt_tokens: int = number(1024, least=16)
    """tokens in a prompt, the opening of the answer included"""
    max_length: int = number(2048, least=16)
    """tokens in one side of a comparison, and in a piece of text"""

    def check(self, key: str) -> None:
        super().check(key)
        for name, value in self.comparisons.items():
            sources(value, f"{key}.comparisons.{name}")
            if name in ("pairs", "correctness_pairs"):
                raise RecipeError(f"{key}.comparisons.{name} has the name of {key}.{name}; choose another",
                                  key=f"{key}.comparisons")  # fmt: skip

    def compared(self) -> dict[str, list[Source]]:
        """name -> sources of every set of comparisons."""
        named = {name: self.sources(name) for name in ("pairs", "correctness_pairs")}
        named |= {name: sources(value, f"data.comparisons.{name}") for name, value in self.comparisons.items()}
        return {name: found for name, found in named.items() if found}

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from super().inputs()
        for name, value in self.comparisons.items():
            key = f"data.comparisons.{name}"
            yield from data_inputs(sources(value, key), key)


@dataclass(frozen=True)
class Eval(Recipe):
    eval: Subjects = field(default_factory=Subjects)
    model: Compute = field(default_factory=Compute)
    chatml: ChatML = field(default_factory=ChatML)
    data: EvalData = field(default_factory=EvalData)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    @property
    def tokenizer_path(self) -> str:
        """The model whose tokenizer all share: the policy, else the first reward model."""
        return self.eval.sft or next(path for named in self.eval.reward_models().values() for path in named.paths)

    def check(self, key: str) -> None:
        if (self.eval.sft is None) != (self.data.prompts is None):
            given, other = ("data.prompts", "eval.sft") if self.eval.sft is None else ("eval.sft", "data.prompts")
            raise RecipeError(f"{given} needs {other} beside it; give both or neither", key=given)
        if self.eval.sft is None:
            for name in ("ppo", "base", "gold"):
                if getattr(self.eval, name) is not None:
                    raise RecipeError(f"eval.{name} needs eval.sft beside it; give that, or leave both out",
                                      key=f"eval.{name}")  # fmt: skip
            if not any(named.paths for named in self.eval.reward_models().values()) or not self.data.compared():
                raise RecipeError(
                    "nothing to evaluate; give eval.sft and data.prompts, or eval.reward and data.pairs", key="eval.sft"
                )

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name in ("sft", "ppo", "base"):
            path = getattr(self.eval, name)
            if path is not None:
                yield from model_inputs(path, f"eval.{name}")
        for key, value in self.eval.reward_models().items():
            yield from value.inputs(key)
        yield from self.data.inputs()

    def memory_advice(self) -> str:
        return "lower sampling.batch_size (no answer changes by it), or data.max_length"
