"""python -m plan RECIPE.yaml [--check] [key=value ...]: what a run takes, and what to change if it does not fit."""

from config import from_command_line
from plan.recipe import Planned, planned_recipe

if __name__ == "__main__":
    recipe = from_command_line(Planned, read=planned_recipe)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from plan.print_plan import show

    run(show, recipe)
