"""python -m eval RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from eval.recipe import Eval

if __name__ == "__main__":
    recipe = from_command_line(Eval)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from eval.evaluate import evaluate

    run(evaluate, recipe)
