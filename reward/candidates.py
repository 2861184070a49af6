"""python -m reward.candidates RECIPE.yaml [--check] [key=value ...]"""

from config.cli import main
from reward.annotation.recipe import WriteCandidates

if __name__ == "__main__":
    main(WriteCandidates, "reward.annotation.candidates:write_candidates")
