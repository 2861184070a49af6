"""python -m ppo RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from ppo.recipe import PPO

if __name__ == "__main__":
    recipe = from_command_line(PPO)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from ppo.train import train

    run(train, recipe)
