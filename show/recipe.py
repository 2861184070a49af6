"""The parts of a stage's recipe that `make show` reads: sources of data, tokenizer, and mask.

The data section has the keys of all stages, so any of them can be shown with any recipe. Other sections of the recipe
are ignored.
"""

import dataclasses
import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf

from config import RecipeError, files, load, sections
from config.data import Source, data_inputs, named_sources, sources
from config.inputs import check_inputs, model_origin
from config.schema import Recipe, Section, number, show
from config.sections import Run, model_inputs
from config.typed import to_dict
from engine.data.chatml_section import ChatML
from eval.recipe import Eval, EvalData
from ppo.recipe import PPOData
from reward.annotation.recipe import Candidates, Prompts
from sft.recipe import Data as SFTData

KEYS = ("train", "eval", "prompts", "heldout", "pretrain")
# Keys with several sets by name.
SETS = ("comparisons", "texts")
# Keys of training data, which evaluation sets must not overlap with.
TRAINED_ON = ("train", "prompts", "pretrain")


def is_comparisons(key: str) -> bool:
    """Return whether a data key is a named set of comparisons."""
    return key.startswith("comparisons.")


def is_texts(key: str) -> bool:
    """Return whether a data key is always plain text, whatever its records look like."""
    return key == "pretrain" or key.startswith("texts.")


@dataclass(frozen=True)
class View(Section):
    rows: int = number(3, least=0)
    """number of records to print in full, evenly spaced from the first to the last"""
    places: int = number(3, least=0)
    """number of records to list for each finding in the table"""
    key: str | None = None
    """the only data key to show: train, eval, prompts, heldout, pretrain, comparisons.NAME or texts.NAME; all by
    default"""
    against: Any = None
    """evaluation sets that training data should not overlap with, a source or a list of sources; by default data.eval,
    data.heldout and the data of the eval.yaml in the recipe's folder"""

    def check(self, key: str) -> None:
        sources(self.against, f"{key}.against")
        known = (*KEYS, *(f"{name}.NAME" for name in SETS))
        if self.key is not None and self.key not in KEYS and self.key.partition(".")[0] not in SETS:
            raise RecipeError(f"{key}.key is {show(self.key)}; it must be one of {', '.join(known)}", key=f"{key}.key")


@dataclass(frozen=True)
class Model(sections.Model):
    path: str | None = None  # type: ignore[assignment]  # other stages need a model, this one has a default
    """model whose tokenizer is used, a folder or a hub id; for a model not trained yet, its base model's"""

    def check(self, key: str) -> None:
        if self.path is not None:
            super().check(key)


@dataclass(frozen=True)
class Data(SFTData, PPOData, EvalData, Prompts, Candidates):
    """The data keys of all stages, none of them mandatory."""

    SHARES: ClassVar[Mapping[str, str]] = {**SFTData.SHARES, **PPOData.SHARES}

    train: Any = named_sources()
    prompts: Any = named_sources()
    candidates: Any = named_sources()


@dataclass(frozen=True)
class Show(Recipe):
    show: View = field(default_factory=View)
    model: Model = field(default_factory=Model)
    chatml: ChatML = field(default_factory=ChatML)
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)

    @property
    def shown(self) -> dict[str, list[Source]]:
        """Data key -> sources, for all keys to show."""
        given = {name: self.data.sources(name) for name in KEYS}
        given |= {f"{what}.{name}": named for what in SETS for name, named in self.data.sets(what).items()}
        return {name: named for name, named in given.items() if named and self.show.key in (None, name)}

    def check(self, key: str) -> None:
        if not self.shown:
            asked = self.show.key or "train"
            raise RecipeError(f"no data to show; name some: data.{asked}=FILE", key=f"data.{asked}")

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name, named in self.shown.items():
            yield from data_inputs(named, f"data.{name}")
        yield from data_inputs(sources(self.show.against, "show.against"), "show.against")
        yield from model_inputs(self.model.path, "model.path")


def show_recipe(path: str, overrides: Sequence[str]) -> Show:
    """Return what `make show` reads of a recipe, with the tokenizer's model and the evaluation sets resolved.

    Raise RecipeError for a mistake in the recipe, or if an input is not on this machine.
    """
    recipe = load(Show, path, overrides, other_sections=True)
    against = recipe.show.against
    if against is None and recipe.stage != Eval.STAGE:
        against = evaluation_sources(recipe, Path(path).parent / "eval.yaml") or None
    tokenizer = model_origin(tokenizer_of(recipe, path, overrides), path)
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, path=tokenizer),
        show=dataclasses.replace(recipe.show, against=against),
    )
    check_inputs(recipe, Path(path))
    return recipe


def tokenizer_of(recipe: Show, path: str, overrides: Sequence[str]) -> str:
    """Return the model whose tokenizer to use; recipes of stage eval name it elsewhere. Raise RecipeError."""
    if recipe.model.path is not None:
        return recipe.model.path
    if recipe.stage != Eval.STAGE:
        raise RecipeError("no tokenizer to show data with; name a model that has one: model.path=FOLDER")
    return load(Eval, path, overrides, other_sections=("show",)).tokenizer_path


def evaluation_sources(recipe: Show, eval_recipe: Path) -> list[Source]:
    """Return the evaluation data of the recipe and of `eval_recipe`, without sources missing on this machine."""
    found = [*recipe.data.sources("eval"), *recipe.data.sources("heldout")]
    if eval_recipe.exists():
        data = OmegaConf.select(OmegaConf.merge(*(values for _, values in files.read_layers(eval_recipe))), "data")
        section = to_dict(data, resolve=True) if data is not None else {}
        given = {name: section.get(name) for name in (*KEYS, "system_prompts")}
        given |= {f"{what}.{name}": value for what in SETS for name, value in (section.get(what) or {}).items()}
        found += [source for name, value in given.items() for source in sources(value, f"data.{name}")]
    return [source for source in dict.fromkeys(found) if source.on_hub or glob.glob(source.path, recursive=True)]
