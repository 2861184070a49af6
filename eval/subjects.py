"""What a subject of an evaluation is: a model on this machine or the hub, an endpoint, or best of n of another subject.

    base: runs/base/model                                   a folder, an adapter folder, or a hub id
    base: {path: owner/name, revision: main}                the same with a revision of the hub's
    other: {url: http://localhost:8000/v1, model: name}     a chat model behind an OpenAI-compatible endpoint
    best: {best_of: base, n: 8, reward: rm}                 of n answers of `base`, the one that a reward model prefers

Read with the recipe, so this imports no torch.
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
    """a folder that `from_pretrained` loads, an adapter folder, or a hub id"""
    revision: str | None = None
    """branch, tag or commit of a hub id"""


@dataclass(frozen=True)
class Endpoint(Section):
    url: str = MISSING
    """up to and with the version, http://localhost:8000/v1"""
    model: str = MISSING
    """which of the endpoint's models is asked"""
    key_from: str | None = None
    """the environment variable that holds the endpoint's key"""
    timeout: float = number(300.0, above=0)
    """seconds an answer may take"""
    retries: int = number(6, least=0)
    """how often a request that failed is sent again, after ½, 1, 2, ... seconds"""
    parallel: int = number(8, least=1)
    """requests at a time"""

    def check(self, key: str) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"{key}.url is {show(self.url)}; it must begin with http:// or https://", key=key)
        if not self.model.strip():
            raise RecipeError(f"{key}.model is empty; name the model that {self.url} is asked for", key=key)


@dataclass(frozen=True)
class BestOf(Section):
    best_of: str = MISSING
    """the subject that the answers are sampled from"""
    n: int = number(8, least=1)
    """answers sampled for each prompt"""
    reward: str | None = None
    """which of eval.rewards chooses; eval.reward by default"""


Subject = LocalModel | Endpoint | BestOf


def read_subject(value: Any, key: str) -> Subject:
    """The subject that `value`, given at `key` of a recipe, describes. Raises RecipeError, naming `key`."""
    if not isinstance(value, Mapping):
        if isinstance(value, list):
            raise RecipeError(f"{key} is {show(value)}; a subject is one model: give a path or a hub id", key=key)
        model_paths(value, key)
        return LocalModel(value)
    kinds = {"best_of": BestOf, "url": Endpoint, "model": Endpoint, "path": LocalModel}
    kind = next((kind for name, kind in kinds.items() if name in value), None)
    if kind is None:
        raise RecipeError(
            f"{key} is {show(value)}; it must be a path, a hub id, {{url: http://HOST/v1, model: NAME}} or "
            "{best_of: NAME, n: 8}",
            key=key,
        )
    builder = Builder(kind, key)
    builder.set((), value)
    if missing := builder.missing():
        raise RecipeError(f"{key} is {show(value)}, without {missing[0].rpartition('.')[2]}; add it", key=key)
    subject = builder.build()
    validate(subject, key)
    return subject


def check_best_of(name: str, subject: BestOf, subjects: Mapping[str, Subject], rewards: Mapping[str, Any]) -> None:
    """Raises RecipeError unless a best-of-n subject names a model to sample from and a reward that chooses."""
    key = f"eval.subjects.{name}"
    if not isinstance(subjects.get(subject.best_of), LocalModel):
        models = [other for other, kind in subjects.items() if isinstance(kind, LocalModel)]
        raise RecipeError(
            f"{key}.best_of is {show(subject.best_of)}, which is no model among eval.subjects; "
            + (f"use one of {', '.join(models)}" if models else "add the model to sample from"),
            key=key,
        )
    if not rewards:
        raise RecipeError(f"{key} is chosen by a reward, and eval.rewards is empty; add one", key=key)
    if subject.reward is not None and subject.reward not in rewards:
        raise RecipeError(
            f"{key}.reward is {show(subject.reward)}; it must be one of eval.rewards: {', '.join(rewards)}", key=key
        )
