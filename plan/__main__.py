"""python -m plan RECIPE.yaml [--check] [key=value ...]: what a run takes, and what to change if it does not fit."""

from plan.recipe import Planned, planned_recipe
from recipes import from_command_line

if __name__ == "__main__":
    recipe = from_command_line(Planned, read=planned_recipe)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from plan.page import show

    run(show, recipe)
