"""Print the page of `make show`: for every data key some examples, then a table of statistics."""

import io
import sys
from typing import cast

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from engine.models.tokenizer import load_tokenizer
from show.examples import TRAINED_CLOSE, TRAINED_OPEN, examples
from show.figure_table import Line, table
from show.inspection import Inspection, inspect_key
from show.recipe import Show
from show.records import PROMPT_KEYS

LABEL_WIDTH = 20  # characters


def show(recipe: Show) -> None:
    """Print the data under every data key of the recipe, or only under `show.key`."""
    # Characters that the terminal's encoding lacks are printed as escapes; they must not raise an error.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    console = Console(highlight=False, emoji=False, markup=False)
    assert recipe.model.path is not None  # `show_recipe` has chosen the tokenizer
    tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
    for key, value in recipe.shown.items():
        write(inspect_key(recipe, key, value, tokenizer), console)


def write(seen: Inspection, console: Console) -> None:
    """Print one data key. Lines are not wrapped here: terminals wrap them, and files keep them whole."""
    colour = console.color_system is not None and not console.no_color
    paths = ", ".join(source.path for source in seen.sources)
    console.print(Text(f"data.{seen.key}: {paths}", "bold"), soft_wrap=True)
    shown = list(examples(seen, colour=colour))
    if shown:
        console.print(_legend(seen, colour), style="dim", soft_wrap=True)
    for heading, text in shown:
        console.print(Text(f"\n── {heading}", "bold blue"), soft_wrap=True)
        text.rstrip()
        console.print(text, soft_wrap=True)
    console.print(Rule(style="dim"), Text())
    for line in table(seen):
        _print(line, console)
    console.print()


def _legend(seen: Inspection, colour: bool) -> str:
    if seen.of_pairs:
        alone = "; make sft would train on the chosen one" if seen.key == "train" else ""
        return f"a comparison: what is shared, then both sides, each scored at its last <|im_end|>{alone}"
    if seen.key in PROMPT_KEYS:
        return "prompts as the model gets them; its answer begins where they end"
    chatml = seen.recipe.chatml
    mask = "" if seen.of_texts else f" (chatml.mask={chatml.mask} train_on={chatml.train_on})"
    return f"trained on: what is {'green' if colour else f'in {TRAINED_OPEN} {TRAINED_CLOSE}'}{mask}"


def _print(line: Line, console: Console) -> None:
    console.print(Text.assemble((f"{line.label:<{LABEL_WIDTH}} ", "bold"), line.value), soft_wrap=True)
    for place in line.places:
        console.print(Text(f"{'':<{LABEL_WIDTH}}   {place}", "dim"), soft_wrap=True)
