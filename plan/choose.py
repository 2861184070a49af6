"""python -m plan.choose RECIPE.yaml [--check] [key=value ...]: what HARDWARE=auto stands for on this machine."""

from config.cli import main
from plan.recipe import PlanRecipe, planned_recipe

if __name__ == "__main__":
    main(PlanRecipe, "plan.auto:print_choice", read=planned_recipe)
