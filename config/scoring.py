"""Sections for scoring responses: with reward models, a function, or an LLM judge."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from config.schema import RecipeError, Section, number, show, validate
from config.sections import model_inputs, model_paths
from config.typed import Builder

FUNCTION_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
CONVERSATION, ANSWER = "{conversation}", "{answer}"
DEFAULT_QUESTION = f"""Judge the last answer of an assistant in this conversation.

{CONVERSATION}

The answer to judge:

{ANSWER}

Is it right, helpful and to the point? Reply with a number from 0 (useless) to 10 (perfect), and nothing else."""


@dataclass(frozen=True)
class Judge(Section):
    """An LLM judge: a model behind an OpenAI-compatible endpoint whose reply contains a score."""

    url: str | None = None
    """base URL of the endpoint, with the version: http://localhost:8000/v1; null: no judge"""
    model: str = ""
    """name of the model at the endpoint"""
    question: str = DEFAULT_QUESTION
    """the prompt; {conversation} and {answer} are replaced"""
    score_pattern: str = r"-?\d+(?:\.\d+)?"
    """regular expression that finds the score in the reply: the first match counts (its first group, if it has one)"""
    key_from: str | None = None
    """environment variable with the endpoint's API key"""
    timeout: float = number(60.0, above=0, changeable=True)
    """seconds to wait for a reply"""
    retries: int = number(4, least=0, changeable=True)
    """how many times a failed request is sent again, after ½, 1, 2, ... seconds"""
    parallel: int = number(8, least=1, changeable=True)
    """number of requests at the same time"""
    cache: str | None = None
    """file of known scores, read and appended to; by default judge.jsonl in the run folder, or judge_NAME.jsonl for
    the part NAME of a mix"""

    def check(self, key: str) -> None:
        if self.url is None:
            return
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"{key}.url is {self.url}; it must begin with http:// or https://", key=f"{key}.url")
        if not self.model:
            raise RecipeError(f"{key}.model is empty; name one of the models of {self.url}", key=f"{key}.model")
        check_placeholders(self.question, f"{key}.question", CONVERSATION, ANSWER)
        try:
            re.compile(self.score_pattern)
        except re.error as error:
            raise RecipeError(
                f"{key}.score_pattern is {self.score_pattern}, which is not a regular expression ({error})",
                key=f"{key}.score_pattern",
            ) from None


@dataclass(frozen=True)
class Scoring(Section):
    path: Any = None
    """the reward model, or a list of reward models (an ensemble)"""
    std_coef: float = number(0.0, least=0)
    """lambda: a score is the mean over the ensemble minus lambda times its standard deviation"""
    rule: str | None = None
    """function used instead of a model, "module:function"; takes messages, answer and record, returns a number"""
    judge: Judge = field(default_factory=Judge)
    """LLM judge used instead of a model"""

    @property
    def paths(self) -> list[str]:
        """The reward models; empty if a rule or a judge scores."""
        return [] if self.path is None else [self.path] if isinstance(self.path, str) else list(self.path)

    @property
    def source(self) -> Any:
        """The models, the rule or the judge's URL, for messages."""
        return self.path or self.rule or self.judge.url

    def sources(self, key: str) -> dict[str, Any]:
        """Return full key -> value of the alternatives, of which exactly one must be given."""
        return {f"{key}.path": self.path, f"{key}.rule": self.rule, f"{key}.judge.url": self.judge.url}

    def check(self, key: str) -> None:
        given = self.sources(key)
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            said = f"has {' and '.join(named)}" if named else "has nothing that scores"
            raise RecipeError(f"{key} {said}; give one of {', '.join(given)}", key=named[0] if named else f"{key}.path")
        if self.path is not None:
            model_paths(self.path, f"{key}.path")
        if self.rule is not None:
            check_function(self.rule, f"{key}.rule")
        if self.std_coef and len(self.paths) < 2:
            raise RecipeError(
                f"{key}.std_coef is {self.std_coef}, which needs several models in {key}.path; "
                f"list them, or set {key}.std_coef=0",
                key=f"{key}.std_coef",
            )

    def inputs(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of the models that must be on this machine."""
        if self.path is not None:
            yield from model_inputs(self.path, key)


ScoringT = TypeVar("ScoringT", bound=Scoring)


def scoring(
    value: Any,
    key: str,
    schema: type[ScoringT] = Scoring,  # type: ignore[assignment]  # mypy knows no defaults of type variables
) -> ScoringT:
    """Return the section in `value`: the path of a reward model, a list of paths, or a mapping with `schema`'s keys.

    Raise RecipeError, naming `key`.
    """
    if not isinstance(value, Mapping):
        model_paths(value, key)
        return schema(path=value)
    builder = Builder(schema, key)
    builder.set((), value)
    built = builder.build()
    validate(built, key)
    return built


def check_placeholders(text: str, key: str, *placeholders: str) -> None:
    """Raise RecipeError unless a prompt contains every placeholder."""
    for placeholder in placeholders:
        if placeholder not in text:
            raise RecipeError(f"{key} lacks {placeholder}; add it to the prompt", key=key)


def check_function(value: str, key: str) -> None:
    """Raise RecipeError unless `value` is written module:function."""
    if not FUNCTION_PATH.fullmatch(value):
        raise RecipeError(f"{key} is {show(value)}; it must be written module:function", key=key)
