"""python -m show RECIPE.yaml [--check] [key=value ...]: what a stage's data looks like to the stage."""

from config.cli import main
from show.recipe import Show, show_recipe

if __name__ == "__main__":
    main(Show, "show.print_page:show", read=show_recipe)
