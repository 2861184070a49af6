"""Read the fields, types and choices of TRL's configuration classes from their source, without importing TRL.

Importing TRL takes four seconds. A test compares the results with the imported classes.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from config.schema import RecipeError

ConfigClass = Literal["SFTConfig", "RewardConfig"]

# Class -> (package, file) that declares it; the bases of a class are classes of this table too.
SOURCES = {
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
}
# Files of transformers that declare the enumerations used as types of fields.
ENUMERATIONS = ("training_args.py", "trainer_utils.py")


def trl_fields(config_class: str) -> dict[str, str]:
    """Return name -> annotation, as written in the source, of every field of a TRL configuration class."""
    return {name: ast.unparse(node.annotation) for name, node in _fields(config_class).items()}


@cache
def trl_choices(config_class: str) -> dict[str, list[str]]:
    """Return name -> permitted values, for fields whose type is an enumeration or whose metadata has `choices`."""
    enumerations = {
        node.name: [ast.literal_eval(each.value) for each in node.body if isinstance(each, ast.Assign)]
        for file in ENUMERATIONS
        for node in _tree("transformers", file).body
        if isinstance(node, ast.ClassDef) and "ExplicitEnum" in map(ast.unparse, node.bases)
    }
    found = {}
    for name, node in _fields(config_class).items():
        types = [part.strip() for part in ast.unparse(node.annotation).split("|")]
        listed = [*(values for each, values in enumerations.items() if each in types), *_choices(node)]
        if listed:
            found[name] = listed[0]
    return found


def _choices(field: ast.AnnAssign) -> Iterator[list[str]]:
    """Yield the `choices` in a field's metadata, if they are a literal list."""
    for node in ast.walk(field):
        for key, values in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(values, ast.List):
                yield ast.literal_eval(values)


@cache
def _fields(config_class: str) -> dict[str, ast.AnnAssign]:
    """Return name -> declaration of the fields of a configuration class and its bases."""
    tree = _tree(*SOURCES[config_class])
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config_class)
    fields: dict[str, ast.AnnAssign] = {}
    for base in cls.bases:
        fields |= _fields(ast.unparse(base))
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            fields[node.target.id] = node
    return fields


@cache
def _tree(package: str, file: str) -> ast.Module:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"{package} is not installed; run make setup")
    return ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))
