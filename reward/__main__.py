"""`python -m reward RECIPE.yaml [--check] [key=value ...]`: train a reward model."""

from config.cli import main
from reward.recipe import Reward

if __name__ == "__main__":
    main(Reward, "reward.train:train")
