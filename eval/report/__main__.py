"""python -m eval.report RECIPE.yaml [key=value ...]: write the report.html of an evaluation.

Unlike an evaluation, a report does not need the recipe's models and data: it shows whatever files exist.
"""

from config.cli import main
from eval.recipe import Eval

if __name__ == "__main__":
    main(Eval, "eval.report.page:write_report", needs_inputs=False)
