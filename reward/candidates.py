"""`python -m reward.candidates RECIPE.yaml [--check] [key=value ...]`: generate candidate responses."""

from config.cli import main
from reward.annotation.recipe import GenerateCandidates

if __name__ == "__main__":
    main(GenerateCandidates, "reward.annotation.candidates:generate_candidates")
