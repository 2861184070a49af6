"""python -m eval.report RECIPE.yaml [key=value ...]: report.html of an evaluation's recipe.

Unlike an evaluation a report does not need the recipe's models to be there: it shows what there is.
"""

import sys

from config import RecipeError, load
from eval.recipe import Eval

USAGE = "usage: python -m eval.report RECIPE.yaml [key=value ...]"

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        sys.exit(0)
    try:
        if not arguments or "=" in arguments[0]:
            raise RecipeError(f"no recipe given; {USAGE}")
        recipe = load(Eval, arguments[0], arguments[1:])
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from eval.page import write_report

    run(write_report, recipe)
