"""What `make show` reads of a stage's recipe: where data comes from, how it is tokenised and masked.

The data section has the keys of all stages, so that any of them can be shown with any recipe; other sections may stand
in the recipe and are not read.
"""

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from config import RecipeError, files, load, sections
from config.data import Source, data_inputs, named_sources, sources
from config.inputs import check_inputs, model_origin
from config.schema import Recipe, Section, number, show
from config.sections import Run, model_inputs
from engine.data.chatml_section import ChatML
from eval.recipe import Eval, EvalData
from ppo.recipe import PPOData
from reward.annotation.recipe import Candidates, Prompts
from sft.recipe import Data as SFTData

KEYS = ("train", "eval", "prompts", "heldout", "pretrain")
# And the keys that hold sets by name.
SETS = ("comparisons", "texts")
# Data that a model is trained on, and that evaluation sets must therefore not contain.
TRAINED_ON = ("train", "prompts", "pretrain")


def is_comparisons(key: str) -> bool:
    """Whether a data key holds a named set of comparisons."""
    return key.startswith("comparisons.")


def is_texts(key: str) -> bool:
    """Whether a data key holds plain text by its meaning, not by its records."""
    return key == "pretrain" or key.startswith("texts.")


@dataclass(frozen=True)
class View(Section):
    rows: int = number(3, least=0)
    """records that are printed in full, evenly spaced from the first to the last"""
    places: int = number(3, least=0)
    """places that are named for each finding in the table"""
    key: str | None = None
    """only this data key: train, eval, prompts, heldout, pretrain, comparisons.NAME or texts.NAME; by default all"""
    against: Any = None
    """evaluation sets that training data should not overlap with: a source or a list of them; by default data.eval, and
    what the eval.yaml beside the recipe names"""

    def check(self, key: str) -> None:
        sources(self.against, f"{key}.against")
        known = (*KEYS, *(f"{name}.NAME" for name in SETS))
        if self.key is not None and self.key not in KEYS and self.key.partition(".")[0] not in SETS:
            raise RecipeError(f"{key}.key is {show(self.key)}; it must be one of {', '.join(known)}", key=f"{key}.key")


@dataclass(frozen=True)
class Model(sections.Model):
    path: str | None = None
    """the model whose tokenizer is used: a folder or a hub id; a model still to be trained has that of its base"""

    def check(self, key: str) -> None:
        if self.path is not None:
            super().check(key)


@dataclass(frozen=True)
class Data(SFTData, PPOData, EvalData, Prompts, Candidates):
    """The data keys of all stages, none of them mandatory."""

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
        """The sources of every data key that is to be shown."""
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
    """Return what `make show` reads of a recipe, model and evaluation sets resolved; all of it is on this machine.

    Raise RecipeError.
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
    """Return the model whose tokenizer is used: an evaluation's recipe names it elsewhere. Raise RecipeError."""
    if recipe.model.path is not None:
        return recipe.model.path
    if recipe.stage != Eval.STAGE:
        raise RecipeError("no tokenizer to show data with; name a model that has one: model.path=FOLDER")
    return load(Eval, path, overrides, other_sections=("show",)).tokenizer_path


def evaluation_sources(recipe: Show, eval_recipe: Path) -> list[Source]:
    """Return what the recipe evaluates on and what the pipeline's evaluation reads, as far as it is on this machine."""
    found = [*recipe.data.sources("eval"), *recipe.data.sources("heldout")]
    if eval_recipe.exists():
        data = OmegaConf.select(OmegaConf.merge(*(values for _, values in files.read(eval_recipe))), "data")
        held_out = OmegaConf.to_container(data, resolve=True) if data is not None else {}
        given = {name: held_out.get(name) for name in (*KEYS, "system_prompts")}
        given |= {f"{what}.{name}": value for what in SETS for name, value in (held_out.get(what) or {}).items()}
        found += [source for name, value in given.items() for source in sources(value, f"data.{name}")]
    return [source for source in dict.fromkeys(found) if source.on_hub or glob.glob(source.path, recursive=True)]
