"""What there is to show, and how it is read: of any stage's recipe the sections that say where data comes from, how it
is tokenised and masked. The other sections may stand there.
"""

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from config import RecipeError, files, load_part
from config.data import Source, TrainingData, data_inputs, named_sources, sources
from config.inputs import check_inputs, model_origin
from config.schema import Recipe, Section, number, show
from config.sections import ChatML, Run, model_inputs

COMPARISONS = "comparisons."
KEYS = ("train", "eval", "prompts", "heldout", "pairs", "correctness_pairs", "pretrain")
# What a model learns from, and what must therefore not be in an evaluation set.
LEARNT_FROM = ("train", "prompts", "pretrain")


@dataclass(frozen=True)
class View(Section):
    rows: int = number(3, least=0)
    """records that are printed, whole, at even distances from the first to the last"""
    places: int = number(3, least=0)
    """places that are named for each finding in the table"""
    key: str | None = None
    """only this data key: train, eval, prompts, heldout, pairs, correctness_pairs, comparisons.NAME or pretrain;
    without it all that are given"""
    against: Any = None
    """evaluation sets that training data should not overlap with: a source or a list of them; without it data.eval,
    and what the eval.yaml beside the recipe names"""

    def check(self, key: str) -> None:
        sources(self.against, f"{key}.against")
        if self.key is not None and self.key not in KEYS and not self.key.startswith(COMPARISONS):
            raise RecipeError(f"{key}.key is {show(self.key)}; it must be one of {', '.join(KEYS)}", key=f"{key}.key")


@dataclass(frozen=True)
class Model(Section):
    path: str | None = None
    """whose tokenizer it is: a folder or a hub id; that of a model still to be made is its base's"""
    revision: str | None = None
    """branch, tag or commit of a hub id"""
    dtype: Any = None
    """of no account here"""
    attention: Any = None
    """of no account here"""
    attention_dropout: Any = None
    """of no account here"""


@dataclass(frozen=True)
class Data(TrainingData):
    """The data keys of all stages; what they mean stands in the stages' own recipes."""

    train: Any = named_sources()
    """conversations, plain text or comparisons"""
    prompts: Any = named_sources()
    """what is asked"""
    heldout: Any = named_sources()
    """what is asked and never trained on"""
    pairs: Any = named_sources()
    """held-out comparisons"""
    correctness_pairs: Any = named_sources()
    """held-out comparisons whose sides differ in correctness alone"""
    comparisons: dict[str, Any] = field(default_factory=dict)
    """more sets of held-out comparisons, by name"""
    pretrain: Any = named_sources()
    """plain text"""
    max_prompt_tokens: int = number(1024, least=16)
    """tokens in a prompt"""
    pretrain_length: int = number(512, least=16)
    """tokens in a piece of pretraining text; in an evaluation max_length counts"""
    packing: bool = True
    """of no account here"""


@dataclass(frozen=True)
class Show(Recipe):
    show: View = field(default_factory=View)
    model: Model = field(default_factory=Model)
    chatml: ChatML = field(default_factory=ChatML)
    data: Data = field(default_factory=Data)
    eval: dict[str, Any] = field(default_factory=dict)
    """of an evaluation's recipe; its models have the tokenizer"""
    run: Run = field(default_factory=Run)

    @property
    def shown(self) -> dict[str, list[Source]]:
        """data key -> what it names, of the keys that are to be shown."""
        given = {name: self.data.sources(name) for name in KEYS}
        given |= {COMPARISONS + name: sources(value, f"data.{COMPARISONS}{name}")
                  for name, value in self.data.comparisons.items()}  # fmt: skip
        return {name: named for name, named in given.items() if named and self.show.key in (None, name)}

    @property
    def measured(self) -> str | None:
        """In an evaluation's recipe the model that has the tokenizer: the policy, else a reward model."""
        named = [self.eval.get(name) for name in ("sft", "pmp", "reward")]
        return next((path for path in named if isinstance(path, str)), None)

    def check(self, key: str) -> None:
        if not self.shown:
            asked = self.show.key or "train"
            raise RecipeError(f"no data to show; name some: data.{asked}=FILE", key=f"data.{asked}")
        if self.model.path is None and self.measured is None:
            raise RecipeError("no tokenizer to show data with; name a model that has one: model.path=FOLDER")

    def inputs(self) -> Iterator[tuple[str, str]]:
        for name, named in self.shown.items():
            yield from data_inputs(named, f"data.{name}")
        yield from data_inputs(sources(self.show.against, "show.against"), "show.against")
        yield from model_inputs(self.model.path, "model.path")


def show_recipe(schema: type[Show], path: str, overrides: Sequence[str]) -> Show:
    """What of a stage's recipe concerns its data; model and evaluation sets resolved, and all of it on this machine.

    Raises RecipeError.
    """
    recipe = load_part(schema, path, overrides)
    against = recipe.show.against
    if against is None and not recipe.eval:
        against = evaluation_sources(recipe, Path(path).parent / "eval.yaml") or None
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, path=model_origin(recipe.model.path or recipe.measured, path)),
        show=dataclasses.replace(recipe.show, against=against),
    )
    check_inputs(recipe, Path(path))
    return recipe


def evaluation_sources(recipe: Show, eval_recipe: Path) -> list[Source]:
    """What the recipe evaluates on, and what the evaluation of the whole pipeline reads, if that is on this machine."""
    found = [*recipe.data.sources("eval"), *recipe.data.sources("heldout")]
    if eval_recipe.exists():
        data = OmegaConf.select(OmegaConf.merge(*(values for _, values in files.read(eval_recipe))), "data")
        held_out = OmegaConf.to_container(data, resolve=True) if data is not None else {}
        found += [source for name in KEYS for source in sources(held_out.get(name), f"data.{name}")]
    return [source for source in dict.fromkeys(found) if source.on_hub or glob.glob(source.path, recursive=True)]
