"""python -m reward.candidates RECIPE.yaml [--check] [key=value ...]"""

from config import from_command_line
from reward.annotation.recipe import WriteCandidates

if __name__ == "__main__":
    recipe = from_command_line(WriteCandidates, module="reward.candidates")
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from reward.annotation.candidates import write_candidates

    run(write_candidates, recipe)
