"""Subjects of an evaluation: a local model, a hub model, an endpoint, or best of n answers of another subject.

    base: runs/base/model                                   a model folder, an adapter folder, or a hub id
    base: {path: owner/name, revision: main}                a hub id at a given revision
    other: {url: http://localhost:8000/v1, model: name}     a chat model behind an OpenAI-compatible endpoint
    best: {best_of: base, n: 8, reward: rm}                 the one of n answers of `base` that scores highest

This file is imported to read a recipe, so it must not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from config.schema import RecipeError, Section, number, show, validate
from config.sections import model_paths
from config.typed import Builder


@dataclass(frozen=True)
class LocalModel(Section):
    path: str = MISSING
    """model folder that `from_pretrained` loads, adapter folder, or hub id"""
    revision: str | None = None
    """branch, tag or commit of a hub id"""


@dataclass(frozen=True)
class Endpoint(Section):
    url: str = MISSING
    """base URL including the version, for example http://localhost:8000/v1"""
    model: str = MISSING
    """name of the model to request"""
    key_from: str | None = None
    """environment variable that holds the API key"""
    timeout: float = number(300.0, above=0)
    """seconds to wait for an answer"""
    retries: int = number(6, least=0)
    """how often a failed request is sent again, after ½, 1, 2, ... seconds"""
    parallel: int = number(8, least=1)
    """number of concurrent requests"""

    def check(self, key: str) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"{key}.url is {show(self.url)}; it must begin with http:// or https://", key=key)
        if not self.model.strip():
            raise RecipeError(f"{key}.model is empty; name the model to request from {self.url}", key=key)


@dataclass(frozen=True)
class BestOf(Section):
    best_of: str = MISSING
    """subject that generates the answers"""
    n: int = number(8, least=1)
    """number of answers sampled per prompt"""
    reward: str | None = None
    """name in eval.rewards whose score picks the answer; eval.reward by default"""


Subject = LocalModel | Endpoint | BestOf


def read_subject(value: Any, key: str) -> Subject:
    """Parse the recipe's value at `key` into a subject. Raise RecipeError, naming `key`, if it is not one."""
    if not isinstance(value, Mapping):
        if isinstance(value, list):
            raise RecipeError(f"{key} is {show(value)}; a subject is one model: give a path or a hub id", key=key)
        model_paths(value, key)
        return LocalModel(value)
    kinds: dict[str, type[Subject]] = {"best_of": BestOf, "url": Endpoint, "model": Endpoint, "path": LocalModel}
    kind = next((kind for name, kind in kinds.items() if name in value), None)
    if kind is None:
        raise RecipeError(
            f"{key} is {show(value)}; it must be a path, a hub id, {{url: http://HOST/v1, model: NAME}} or "
            "{best_of: NAME, n: 8}",
            key=key,
        )
    builder: Builder[Subject] = Builder(kind, key)
    builder.set((), value)
    if missing := builder.missing():
        raise RecipeError(f"{key} is {show(value)}, without {missing[0].rpartition('.')[2]}; add it", key=key)
    subject = builder.build()
    validate(subject, key)
    return subject


def check_best_of(name: str, subject: BestOf, subjects: Mapping[str, Subject], rewards: Mapping[str, Any]) -> None:
    """Raise RecipeError unless a best-of-n subject names a model in `subjects` and a reward in `rewards`."""
    key = f"eval.subjects.{name}"
    if not isinstance(subjects.get(subject.best_of), LocalModel):
        models = [other for other, kind in subjects.items() if isinstance(kind, LocalModel)]
        raise RecipeError(
            f"{key}.best_of is {show(subject.best_of)}, which is not a model in eval.subjects; "
            + (f"use one of {', '.join(models)}" if models else "add the model to sample from"),
            key=key,
        )
    if not rewards:
        raise RecipeError(f"{key} needs a reward to pick answers, and eval.rewards is empty; add one", key=key)
    if subject.reward is not None and subject.reward not in rewards:
        raise RecipeError(
            f"{key}.reward is {show(subject.reward)}; it must be one of eval.rewards: {', '.join(rewards)}", key=key
        )
