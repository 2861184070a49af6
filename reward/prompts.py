"""`python -m reward.prompts RECIPE.yaml [--check] [key=value ...]`: select prompts to annotate."""

from config.cli import main
from reward.annotation.recipe import SelectPrompts

if __name__ == "__main__":
    main(SelectPrompts, "reward.annotation.prompts:select_prompts")
