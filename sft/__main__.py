"""python -m sft RECIPE.yaml [--check] [key=value ...]"""

from config.cli import main
from sft.recipe import SFT

if __name__ == "__main__":
    main(SFT, "sft.train:train")
