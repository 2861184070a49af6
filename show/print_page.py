"""The page that `make show` prints: for every data key its conversations, then its table."""

import sys

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from engine.models.tokenizer import load_tokenizer
from show.examples import CLOSE, OPEN, examples
from show.figure_table import Line, table
from show.look import Look, look
from show.recipe import Show
from show.records import ASKED

WIDTH = 20  # of the table's labels


def show(recipe: Show) -> None:
    """Print what there is under every data key of the recipe, or under the one it asks for."""
    # Nothing that a record holds may end the page: what the terminal's alphabet lacks is written as its code.
    sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, emoji=False, markup=False)
    tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
    for key, value in recipe.shown.items():
        write(look(recipe, key, value, tokenizer), console)


def write(seen: Look, console: Console) -> None:
    """Print one data key. Lines are as long as they are: a terminal wraps them, a file keeps them whole."""
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


def _legend(seen: Look, colour: bool) -> str:
    if seen.of_pairs:
        alone = "; make sft would train on the chosen one" if seen.key == "train" else ""
        return f"a comparison: what is shared, then both sides, each scored at its last <|im_end|>{alone}"
    if seen.key in ASKED:
        return "prompts as the model gets them; its answer begins where they end"
    chatml = seen.recipe.chatml
    mask = "" if seen.of_texts else f" (chatml.mask={chatml.mask} train_on={chatml.train_on})"
    return f"trained on: what is {'green' if colour else f'in {OPEN} {CLOSE}'}{mask}"


def _print(line: Line, console: Console) -> None:
    console.print(Text.assemble((f"{line.label:<{WIDTH}} ", "bold"), line.value), soft_wrap=True)
    for place in line.places:
        console.print(Text(f"{'':<{WIDTH}}   {place}", "dim"), soft_wrap=True)
