"""What a run is: YAML recipes, their loader, and the sections that stages share. Imports no torch."""

from config.inputs import missing_input
from config.loader import from_command_line, load, load_part, resolved_yaml
from config.schema import RecipeError

__all__ = ["RecipeError", "from_command_line", "load", "load_part", "missing_input", "resolved_yaml"]
