"""python -m reward RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from reward.recipe import Reward

if __name__ == "__main__":
    recipe = from_command_line(Reward)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from reward.train import train

    run(train, recipe)
