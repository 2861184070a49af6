"""`python -m reward.pairs RECIPE.yaml [--check] [key=value ...]`: make comparisons from scored candidates."""

from config.cli import main
from reward.annotation.recipe import MakePairs

if __name__ == "__main__":
    main(MakePairs, "reward.annotation.pairs:make_pairs")
