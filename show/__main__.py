"""python -m show RECIPE.yaml [--check] [key=value ...]: what a stage's data looks like to the stage."""

from config import from_command_line
from show.recipe import Show, show_recipe

if __name__ == "__main__":
    recipe = from_command_line(Show, read=show_recipe)
    # What follows imports the tokenizer's library, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from show.print_page import show

    run(show, recipe)
