"""python -m reward.prompts RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from reward.annotation.recipe import SelectPrompts

if __name__ == "__main__":
    recipe = from_command_line(SelectPrompts, module="reward.prompts")
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from reward.annotation.prompts import choose_prompts

    run(choose_prompts, recipe)
