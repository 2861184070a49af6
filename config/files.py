"""Read recipe files and the files that they extend."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from config.schema import RecipeError, show
from config.typed import nearest

EXTENDS = "extends"


def read_layers(path: Path) -> list[tuple[Path, dict[Any, Any]]]:
    """Return (file, values) for a recipe and all files that it extends, the most distant parent first.

    The key `extends`, a path relative to its file, is removed from the values. Raise RecipeError if a file cannot be
    read.
    """
    layers: list[tuple[Path, dict[Any, Any]]] = []
    child: Path | None = None
    while True:
        if child and any(path.resolve() == seen.resolve() for seen, _ in layers):
            raise RecipeError(f"{child}:{line_of(child, EXTENDS)}: extends {path}, which extends this file in turn")
        values = _read_mapping(path, child)
        parent = values.pop(EXTENDS, None)
        layers.insert(0, (path, values))
        if parent is None:
            return layers
        if not isinstance(parent, str):
            raise RecipeError(f"{path}:{line_of(path, EXTENDS)}: extends is {show(parent)}; it must name one recipe")
        path, child = path.parent / parent, path


def line_of(path: Path, key: str) -> int | None:
    """Return the line number, from 1, of a dotted key in a YAML file; None if the file does not contain it.

    The names in a mapping may contain dots themselves (`eval.require.differences.ppo.answers.accuracy.mean`).
    """
    node, line, rest = yaml.compose(path.read_text(encoding="utf-8")), None, key
    while rest:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next((pair for pair in node.value if f"{rest}.".startswith(f"{pair[0].value}.")), None)
        if found is None:
            return None
        line, node, rest = found[0].start_mark.line + 1, found[1], rest[len(found[0].value) + 1 :]
    return line


def _read_mapping(path: Path, child: Path | None) -> dict[Any, Any]:
    where = f"{child}:{line_of(child, EXTENDS)}: extends " if child else ""
    try:
        loaded = OmegaConf.load(path)
        values = OmegaConf.to_container(loaded)
    except FileNotFoundError:
        near = nearest(str(path), (str(known) for known in Path("recipes").glob("*/*.yaml")))
        way_out = f"did you mean {near[0]}?" if near else "name a recipe file"
        raise RecipeError(f"{where}{path} does not exist; {way_out}") from None
    except IsADirectoryError:
        raise RecipeError(f"{where}{path} is a folder; name a recipe file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RecipeError(f"{where}{path} cannot be read ({reason})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path}: not a valid recipe ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections; this is {show(values)}")
    return values
