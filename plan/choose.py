"""python -m plan.choose RECIPE.yaml [--check] [key=value ...]: print the configuration that HARDWARE=auto chooses."""

from config.cli import main
from plan.recipe import PlanRecipe, planned_recipe

if __name__ == "__main__":
    main(PlanRecipe, "plan.auto:print_choice", read=planned_recipe)
