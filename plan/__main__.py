"""python -m plan RECIPE.yaml [--check] [key=value ...]: memory and time of a run, and changes that make it fit."""

from config.cli import main
from plan.recipe import PlanRecipe, planned_recipe

if __name__ == "__main__":
    main(PlanRecipe, "plan.print_plan:show", read=planned_recipe)
