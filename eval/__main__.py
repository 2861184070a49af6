"""python -m eval RECIPE.yaml [--check] [key=value ...]"""

from config.cli import main
from eval.recipe import Eval

if __name__ == "__main__":
    main(Eval, "eval.evaluate:evaluate")
