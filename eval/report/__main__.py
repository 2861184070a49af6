"""python -m eval.report RECIPE.yaml [key=value ...]: report.html of an evaluation's recipe.

Unlike an evaluation, a report does not need the recipe's models to be there: it shows what there is.
"""

from config.cli import main
from eval.recipe import Eval

if __name__ == "__main__":
    main(Eval, "eval.report.page:write_report", needs_inputs=False)
