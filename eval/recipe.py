"""An evaluation's recipe: subjects by name, what scores their answers, and what they are measured on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from config.data import Data, Source, data_inputs, named_sources, sources
from config.schema import Recipe, RecipeError, Section, number, show, whole_mapping
from config.scoring import Scoring, check_function, scoring
from config.sections import Compute, Run, Sampling, check_name, model_inputs
from engine.data.chatml_section import ChatML
from eval.gate import Requirement, read_requirements
from eval.subjects import BestOf, LocalModel, Subject, check_best_of, read_subject

MEASURES = ("answers", "perplexity", "comparisons", "system_prompt")


@dataclass(frozen=True)
class Subjects(Section):
    subjects: dict[str, Any] = whole_mapping("reference")
    """what is evaluated, by name, in the table's order: {NAME: a path, a hub id, {url: URL, model: NAME}, or
    {best_of: NAME, n: 8, reward: NAME}}. Given as a whole on the command line, it replaces the file's"""
    reference: str | None = None
    """the subject that differences, win rates and KL are against; the first one by default"""
    rewards: dict[str, Any] = whole_mapping("reward")
    """what scores answers and is measured on comparisons, by name: {NAME: a path, a list of paths, or a mapping with
    the keys of PPO's section `reward`}. Given as a whole on the command line, it replaces the file's"""
    reward: str | None = None
    """which of `rewards` gives the figure `score` and chooses best of n; the last one by default"""
    gold: str | None = None
    """function that knows how good an answer is, "module:function"; takes a record and an answer, returns its parts"""
    obeys: str | None = None
    """function that knows whether an answer obeys the system turn, "module:function"; takes a record of
    data.system_prompts and an answer, returns a truth value or a number from 0 to 1"""
    measures: list[str] = field(default_factory=list)
    """any of answers, perplexity, comparisons, system_prompt; empty: those for which there is data"""
    require: Any = field(default_factory=dict)
    """a gate, {path in summary.json: condition}: {"differences.ppo.answers.accuracy.mean": ">= -0.01"}; exit code 1
    unless all hold"""
    prompts_limit: int | None = number(None, least=1)
    """only this many prompts from the front"""
    tokenizer: str | None = None
    """the model whose tokenizer measures prompts and comparisons; by default that of the first subject that is a model,
    else of the first reward model"""

    def check(self, key: str) -> None:
        subjects, rewards = self.subject_kinds(), self.reward_models()
        for what, names, chosen in (("reference", subjects, self.reference), ("reward", rewards, self.reward)):
            if chosen is not None and chosen not in names:
                way_out = f"use one of {', '.join(names)}" if names else "leave it out"
                among = f"{key}.{'subjects' if what == 'reference' else 'rewards'}"
                raise RecipeError(
                    f"{key}.{what} is {show(chosen)}, which is not among {among}; {way_out}", key=f"{key}.{what}"
                )
        for name, subject in subjects.items():
            if isinstance(subject, BestOf):
                check_best_of(name, subject, subjects, rewards)
        for measure in self.measures:
            if measure not in MEASURES:
                raise RecipeError(
                    f"{key}.measures has {show(measure)}; use {', '.join(MEASURES)}", key=f"{key}.measures"
                )
        if self.gold is not None:
            check_function(self.gold, f"{key}.gold")
        if self.obeys is not None:
            check_function(self.obeys, f"{key}.obeys")
        self.requirements()

    def subject_kinds(self) -> dict[str, Subject]:
        """NAME -> what it is, in the recipe's order."""
        for name in self.subjects:
            check_name(str(name), "eval.subjects")
        return {name: read_subject(value, f"eval.subjects.{name}") for name, value in self.subjects.items()}

    def reward_models(self) -> dict[str, Scoring]:
        """NAME -> what scores, in the recipe's order."""
        for name in self.rewards:
            check_name(str(name), "eval.rewards")
        return {name: scoring(value, f"eval.rewards.{name}") for name, value in self.rewards.items()}

    def requirements(self) -> list[Requirement]:
        return read_requirements(self.require, "eval.require", list(self.subjects), list(self.rewards))

    @property
    def main_reward(self) -> str | None:
        """The reward whose score of an answer is called `score`; None without rewards."""
        return self.reward or next(reversed(self.rewards), None)

    @property
    def main_reference(self) -> str | None:
        """The subject that the others are compared with; None without subjects."""
        return self.reference or next(iter(self.subjects), None)


@dataclass(frozen=True)
class EvalData(Data):
    prompts: Any = named_sources()
    """what is asked: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    comparisons: dict[str, Any] = whole_mapping()
    """held-out comparisons that rewards are measured on, by name: {NAME: source, or a list of them}; a record's
    `subset` is reported by itself as well"""
    texts: dict[str, Any] = whole_mapping()
    """held-out plain text for perplexity, by name: {NAME: source, or a list of them}"""
    system_prompts: Any = named_sources()
    """conversations that begin with a system turn whose instruction is to be obeyed: a source or a list of them, in any
    record shape; what users say in them is asked turn by turn, each subject's own answers in between"""
    max_prompt_tokens: int = number(1024, least=16)
    """tokens in a prompt, the opening of the answer included; a conversation of system_prompts is not asked the turn
    whose prompt would be longer"""
    max_length: int = number(2048, least=16)
    """tokens in one side of a comparison, and in a piece of text"""

    def check(self, key: str) -> None:
        super().check(key)
        for what in ("comparisons", "texts"):
            for name in getattr(self, what):
                check_name(str(name), f"{key}.{what}")
            self.sets(what)
        if "bits_per_byte" in self.texts or "tokens" in self.texts or "why" in self.texts:
            raise RecipeError(
                f"{key}.texts has a set called bits_per_byte, tokens or why, which are figures' names; rename it",
                key=f"{key}.texts",
            )

    def sets(self, what: str) -> dict[str, list[Source]]:
        """NAME -> sources of `comparisons` or of `texts`."""
        return {name: sources(value, f"data.{what}.{name}") for name, value in getattr(self, what).items()}

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from super().inputs()
        for what in ("comparisons", "texts"):
            for name, named in self.sets(what).items():
                yield from data_inputs(named, f"data.{what}.{name}")


@dataclass(frozen=True)
class Eval(Recipe):
    STAGE: ClassVar[str] = "eval"

    eval: Subjects = field(default_factory=Subjects)
    model: Compute = field(default_factory=Compute)
    chatml: ChatML = field(default_factory=ChatML)
    data: EvalData = field(default_factory=EvalData)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """What is measured: what `eval.measures` lists, else everything that there is data for."""
        subjects, rewards, data = self.eval.subjects, self.eval.rewards, self.data
        possible = {
            "answers": subjects and data.prompts is not None,
            "perplexity": subjects and data.texts,
            "comparisons": rewards and data.comparisons,
            "system_prompt": subjects and data.system_prompts is not None,
        }
        return tuple(name for name in MEASURES if name in (self.eval.measures or [n for n in MEASURES if possible[n]]))

    @property
    def main_tokenizer(self) -> LocalModel:
        """The model whose tokenizer reads prompts and comparisons."""
        return next(self._tokenizers())

    @property
    def tokenizer_path(self) -> str:
        return self.main_tokenizer.path

    def check(self, key: str) -> None:
        needs = {
            "answers": ("eval.subjects and data.prompts", self.eval.subjects and self.data.prompts is not None),
            "perplexity": ("eval.subjects and data.texts", self.eval.subjects and self.data.texts),
            "comparisons": ("eval.rewards and data.comparisons", self.eval.rewards and self.data.comparisons),
            "system_prompt": (
                "eval.subjects, eval.obeys and data.system_prompts",
                self.eval.subjects and self.eval.obeys is not None and self.data.system_prompts is not None,
            ),
        }
        for measure in self.eval.measures:
            what, there = needs[measure]
            if not there:
                raise RecipeError(f"eval.measures has {measure}, which needs {what}", key="eval.measures")
        if not self.measures:
            raise RecipeError(
                "nothing to evaluate; give eval.subjects and data.prompts, or eval.rewards and data.comparisons",
                key="eval.subjects",
            )
        for name in ("prompts", "system_prompts"):
            if getattr(self.data, name) is not None and not self.eval.subjects:
                raise RecipeError(
                    f"data.{name} needs eval.subjects beside it; give both or neither", key=f"data.{name}"
                )
        if self.data.system_prompts is not None and self.eval.obeys is None:
            raise RecipeError(
                "data.system_prompts needs eval.obeys, the function that knows whether an answer obeys; give both or "
                "neither",
                key="data.system_prompts",
            )
        if self.eval.obeys is not None and self.data.system_prompts is None:
            raise RecipeError(
                "eval.obeys needs conversations: give data.system_prompts, or leave it out", key="eval.obeys"
            )
        if self.eval.gold is not None and self.data.prompts is None:
            raise RecipeError(
                "eval.gold needs answers: give eval.subjects and data.prompts, or leave it out", key="eval.gold"
            )
        if next(self._tokenizers(), None) is None:
            raise RecipeError(
                "no model among eval.subjects and eval.rewards has a tokenizer to measure prompts with; set "
                "eval.tokenizer to a model folder or a hub id",
                key="eval.tokenizer",
            )

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name, subject in self.eval.subject_kinds().items():
            if isinstance(subject, LocalModel):
                yield from model_inputs(subject.path, f"eval.subjects.{name}")
        for name, value in self.eval.reward_models().items():
            yield from value.inputs(f"eval.rewards.{name}")
        if self.eval.tokenizer is not None:
            yield from model_inputs(self.eval.tokenizer, "eval.tokenizer")
        yield from self.data.inputs()

    def memory_advice(self) -> str:
        return "lower sampling.batch_size (no answer changes by it), or data.max_length"

    def _tokenizers(self) -> Iterator[LocalModel]:
        if self.eval.tokenizer is not None:
            yield LocalModel(self.eval.tokenizer)
        for subject in self.eval.subject_kinds().values():
            if isinstance(subject, LocalModel):
                yield subject
        for value in self.eval.reward_models().values():
            yield from map(LocalModel, value.paths)
