"""Recipes: YAML files, their loader, the sections that stages share, and the command line. Imports no torch."""

from config.inputs import missing_input
from config.loader import load, resolved_yaml
from config.schema import RecipeError

__all__ = ["RecipeError", "load", "missing_input", "resolved_yaml"]
