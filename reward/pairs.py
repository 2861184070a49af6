"""python -m reward.pairs RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from reward.annotation.recipe import MakePairs

if __name__ == "__main__":
    recipe = from_command_line(MakePairs, module="reward.pairs")
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from reward.annotation.pairs import make_pairs

    run(make_pairs, recipe)
