"""`python -m ppo RECIPE.yaml [--check] [key=value ...]`: run the PPO stage."""

from config.cli import main
from ppo.recipe import PPO

if __name__ == "__main__":
    main(PPO, "ppo.train:train")
