"""Recipe of an evaluation: named subjects, the rewards that score their answers, measures and data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from config.data import Data, Source, data_inputs, named_sources, sources
from config.schema import Recipe, RecipeError, Section, Stage, number, show, whole_mapping
from config.scoring import Scoring, check_function, scoring
from config.sections import Compute, Run, Sampling, check_name, model_inputs
from engine.data.chatml_section import ChatML
from eval.gate import Requirement, read_requirements
from eval.subjects import BestOf, LocalModel, Subject, check_best_of, read_subject

MEASURES = ("answers", "perplexity", "comparisons", "system_prompt")


@dataclass(frozen=True)
class Subjects(Section):
    subjects: dict[str, Any] = whole_mapping("reference")
    """models to evaluate, by name, in the table's order: {NAME: a path, a hub id, {url: URL, model: NAME}, or
    {best_of: NAME, n: 8, reward: NAME}}. A mapping given on the command line replaces the file's"""
    reference: str | None = None
    """subject that all others are compared with (differences, win rates, KL); the first one by default"""
    rewards: dict[str, Any] = whole_mapping("reward")
    """reward models, rules and judges, by name, that score answers and are measured on comparisons: {NAME: a path, a
    list of paths, or a mapping with the keys of PPO's section `reward`}. A mapping given on the command line replaces
    the file's"""
    reward: str | None = None
    """name in `rewards` that gives the figure `score` and picks best-of-n answers; the last one by default"""
    gold: str | None = None
    """gold scorer, "module:function": takes a record and an answer, returns the parts of the answer's gold score"""
    obeys: str | None = None
    """function that checks whether an answer obeys the system turn, "module:function": takes a record of
    data.system_prompts and an answer, returns a bool or a number from 0 to 1"""
    measures: list[str] = field(default_factory=list)
    """any of answers, perplexity, comparisons, system_prompt; by default all that the recipe has data for"""
    require: Any = field(default_factory=dict)
    """conditions on summary.json, {path: condition}: {"differences.ppo.answers.accuracy.mean": ">= -0.01"}; the exit
    code is 1 unless all hold"""
    prompts_limit: int | None = number(None, least=1)
    """number of prompts to use, from the front; all by default"""
    tokenizer: str | None = None
    """model whose tokenizer measures the length of prompts and comparisons; by default the first subject that is a
    model, else the first reward model"""

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
        """Return {name: parsed subject} in the recipe's order. Raise RecipeError for a bad name or value."""
        for name in self.subjects:
            check_name(str(name), "eval.subjects")
        return {name: read_subject(value, f"eval.subjects.{name}") for name, value in self.subjects.items()}

    def reward_models(self) -> dict[str, Scoring]:
        """Return {name: parsed reward} in the recipe's order. Raise RecipeError for a bad name or value."""
        for name in self.rewards:
            check_name(str(name), "eval.rewards")
        return {name: scoring(value, f"eval.rewards.{name}") for name, value in self.rewards.items()}

    def requirements(self) -> list[Requirement]:
        return read_requirements(self.require, "eval.require", list(self.subjects), list(self.rewards))

    @property
    def main_reward(self) -> str | None:
        """Name of the reward that gives the figure `score`; None without rewards."""
        return self.reward or next(reversed(self.rewards), None)

    @property
    def main_reference(self) -> str | None:
        """Name of the subject that the others are compared with; None without subjects."""
        return self.reference or next(iter(self.subjects), None)


@dataclass(frozen=True)
class EvalData(Data):
    prompts: Any = named_sources()
    """prompts: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    comparisons: dict[str, Any] = whole_mapping()
    """held-out comparisons that rewards are measured on, by name: {NAME: source, or a list of them}; records with a
    `subset` are also reported by subset"""
    texts: dict[str, Any] = whole_mapping()
    """held-out plain text for perplexity, by name: {NAME: source, or a list of them}"""
    system_prompts: Any = named_sources()
    """conversations that start with a system turn to obey: a source or a list of them, in any record shape; each
    subject answers the user turns in order, with its own earlier answers in the prompt"""
    max_prompt_tokens: int = number(1024, least=16)
    """maximum tokens of a prompt, including the opening of the answer; a conversation of system_prompts stops before
    the first turn whose prompt would be longer"""
    max_length: int = number(2048, least=16)
    """maximum tokens of one side of a comparison, and of a chunk of text"""

    def check(self, key: str) -> None:
        super().check(key)
        for what in ("comparisons", "texts"):
            for name in getattr(self, what):
                check_name(str(name), f"{key}.{what}")
            self.sets(what)
        if "bits_per_byte" in self.texts or "tokens" in self.texts or "why" in self.texts:
            raise RecipeError(
                f"{key}.texts has a set called bits_per_byte, tokens or why, which are names of figures; rename it",
                key=f"{key}.texts",
            )

    def sets(self, what: str) -> dict[str, list[Source]]:
        """Return {set name: sources} of the field `what`, comparisons or texts."""
        return {name: sources(value, f"data.{what}.{name}") for name, value in getattr(self, what).items()}

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from super().inputs()
        for what in ("comparisons", "texts"):
            for name, named in self.sets(what).items():
                yield from data_inputs(named, f"data.{what}.{name}")


@dataclass(frozen=True)
class Eval(Recipe):
    STAGE: ClassVar[Stage] = "eval"

    eval: Subjects = field(default_factory=Subjects)
    model: Compute = field(default_factory=Compute)
    chatml: ChatML = field(default_factory=ChatML)
    data: EvalData = field(default_factory=EvalData)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """The measures to run: those in `eval.measures`, by default all that the recipe has data for."""
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
                raise RecipeError(f"data.{name} needs eval.subjects; give both or neither", key=f"data.{name}")
        if self.data.system_prompts is not None and self.eval.obeys is None:
            raise RecipeError(
                "data.system_prompts needs eval.obeys, the function that checks whether an answer obeys; give both or "
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
                "no subject or reward is a model whose tokenizer could measure prompts; set "
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
        return "lower sampling.batch_size (this does not change any answer), or data.max_length"

    def _tokenizers(self) -> Iterator[LocalModel]:
        if self.eval.tokenizer is not None:
            yield LocalModel(self.eval.tokenizer)
        for subject in self.eval.subject_kinds().values():
            if isinstance(subject, LocalModel):
                yield subject
        for value in self.eval.reward_models().values():
            yield from map(LocalModel, value.paths)
