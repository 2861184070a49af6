"""python -m sft RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from sft.recipe import SFT

if __name__ == "__main__":
    recipe = from_command_line(SFT)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from sft.train import train

    run(train, recipe)
