"""python -m reward.prompts RECIPE.yaml [--check] [key=value ...]"""

from config.cli import main
from reward.annotation.recipe import SelectPrompts

if __name__ == "__main__":
    main(SelectPrompts, "reward.annotation.prompts:choose_prompts")
