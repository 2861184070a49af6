"""The recipes of the three steps that make comparisons: select prompts, generate candidates, pair them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from omegaconf import MISSING

from config.data import Data, named_sources
from config.schema import Recipe, RecipeError, Section, Stage, number, show, validate
from config.scoring import CONVERSATION, Scoring, check_placeholders, scoring
from config.sections import Compute, Run, Sampling, model_inputs, model_paths
from config.typed import Builder
from engine.data.chatml_section import ChatML

TAG_QUESTION = f"""Name the intentions of the last request in this conversation: what it is about and what is to be
done, as short tags. Reply with nothing but the tags, separated by commas.

{CONVERSATION}"""


@dataclass(frozen=True)
class Prompts(Data):
    prompts: Any = named_sources(MISSING)
    """the prompts to select from or to respond to: a source or a list of them, in any record shape"""
    max_prompt_tokens: int = number(1024, least=16)
    """maximum tokens in a prompt, including the header of the response"""


@dataclass(frozen=True)
class Selection(Section):
    count: int = number(least=1)
    """prompts to select"""
    tag_fields: list[str] = field(default_factory=list)
    """fields of a record that contain its tags, each a text or a list of texts; nested fields are dotted (gold.task);
    records without tags are tagged by the tagger"""
    tagger: str | None = None
    """model that generates the tags of a prompt: a folder or hub id"""
    question: str = TAG_QUESTION
    """the tagger's prompt; {conversation} is replaced by the conversation"""

    def check(self, key: str) -> None:
        if not self.tag_fields and self.tagger is None:
            raise RecipeError(
                f"{key} names no tags; give {key}.tag_fields=[FIELD], or {key}.tagger=MODEL", key=f"{key}.tag_fields"
            )
        check_placeholders(self.question, f"{key}.question", CONVERSATION)


@dataclass(frozen=True)
class SelectPrompts(Recipe):
    """The recipe of `make prompts`."""

    STAGE: ClassVar[Stage] = "prompts"

    select: Selection = field(default_factory=Selection)
    model: Compute = field(default_factory=Compute)
    data: Prompts = field(default_factory=Prompts)
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.1, max_new_tokens=64))
    """sampling of the tagger"""
    run: Run = field(default_factory=Run)

    def inputs(self) -> Iterator[tuple[str, str]]:
        if self.select.tagger is not None:
            yield from model_inputs(self.select.tagger, "select.tagger")
        yield from self.data.inputs()


@dataclass(frozen=True)
class CandidateModels(Section):
    models: dict[str, Any] = field(default_factory=dict)
    """the models that generate responses: {name: a folder or hub id}; all use the first one's tokenizer"""
    settings: Any = field(default_factory=lambda: [{"temperature": 1.0, "top_p": 0.9}])
    """sampling settings: a list of mappings with keys of the section sampling, whose values apply where a key is left
    out"""
    responses: int = number(1, least=1)
    """responses per model, setting and prompt"""

    def check(self, key: str) -> None:
        if not self.models:
            raise RecipeError(
                f"{key}.models is empty; name the models that respond: {key}.models={{name: PATH}}",
                key=f"{key}.models",
            )
        for name, path in self.models.items():
            if len(model_paths(path, f"{key}.models.{name}")) != 1 or not isinstance(path, str):
                raise RecipeError(f"{key}.models.{name} is {show(path)}; it must be one path", key=f"{key}.models")


@dataclass(frozen=True)
class GenerateCandidates(Recipe):
    """The recipe of `make candidates`."""

    STAGE: ClassVar[Stage] = "candidates"

    candidates: CandidateModels = field(default_factory=CandidateModels)
    model: Compute = field(default_factory=Compute)
    chatml: ChatML = field(default_factory=ChatML)
    data: Prompts = field(default_factory=Prompts)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    @property
    def settings(self) -> list[Sampling]:
        """The section `sampling`, updated with each of `candidates.settings`. Raises RecipeError for a bad setting."""
        key, given = "candidates.settings", self.candidates.settings
        if not isinstance(given, list) or not given or not all(isinstance(item, Mapping) for item in given):
            raise RecipeError(
                f"{key} is {show(given)}; it must be a list of mappings: [{{temperature: 1.0, top_p: 0.9}}]", key=key
            )
        built = []
        for at, item in enumerate(given):
            builder = Builder(Sampling, f"{key}[{at}]")
            builder.set((), item)
            changed = {name: getattr(builder.build(), name) for name in item}
            built.append(replace(self.sampling, **changed))
            validate(built[-1], f"{key}[{at}]")
        return built

    def check(self, key: str) -> None:
        _ = self.settings

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name, path in self.candidates.models.items():
            yield from model_inputs(path, f"candidates.models.{name}")
        yield from self.data.inputs()

    def memory_advice(self) -> str:
        return "lower sampling.batch_size (the responses stay the same)"


@dataclass(frozen=True)
class Pairing(Section):
    score_field: str | None = None
    """field of a candidate that contains its score, for example a human rating; alternative to `score`"""
    score: Any = None
    """scorer of candidates: a reward model, or a mapping with the keys of PPO's section `reward` (a rule, a judge)"""
    min_margin: float = number(0.0, least=0)
    """minimum difference in score between the chosen and the rejected response; ties are never compared"""
    per_prompt: int = number(4, least=1)
    """maximum comparisons per prompt"""
    test_share: float = number(0.1, least=0, below=1)
    """share of the prompts whose comparisons go to test.jsonl, selected by a hash of the prompt"""

    def scoring(self, key: str) -> Scoring | None:
        return None if self.score is None else scoring(self.score, f"{key}.score")

    def check(self, key: str) -> None:
        if (self.score_field is None) == (self.scoring(key) is None):
            raise RecipeError(f"give one of {key}.score_field and {key}.score", key=f"{key}.score")


@dataclass(frozen=True)
class Candidates(Data):
    candidates: Any = named_sources(MISSING)
    """candidates.jsonl from make candidates, or records with its fields: messages, answer, and optionally a score"""


@dataclass(frozen=True)
class MakePairs(Recipe):
    """The recipe of `make pairs`."""

    STAGE: ClassVar[Stage] = "pairs"

    pairs: Pairing = field(default_factory=Pairing)
    model: Compute = field(default_factory=Compute)
    tokenizer: str | None = None
    """tokenizer for the scorer: a folder or hub id; the reward model's by default"""
    chatml: ChatML = field(default_factory=ChatML)
    data: Candidates = field(default_factory=Candidates)
    run: Run = field(default_factory=Run)

    def check(self, key: str) -> None:
        named = self.pairs.scoring("pairs")
        if named is not None and not named.paths and self.tokenizer is None:
            raise RecipeError(
                "pairs.score has no tokenizer of its own; give a model that has one: tokenizer=FOLDER", key="tokenizer"
            )

    def inputs(self) -> Iterator[tuple[str, str]]:
        named = self.pairs.scoring("pairs")
        if named is not None:
            yield from named.inputs("pairs.score")
        if self.tokenizer is not None:
            yield from model_inputs(self.tokenizer, "tokenizer")
        yield from self.data.inputs()
