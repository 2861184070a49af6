"""A small PPO recipe as YAML, and the error that a recipe causes."""

from pathlib import Path

import pytest

from config import RecipeError, load
from config.schema import Recipe

PPO_YAML = """\
stage: ppo
model:
  path: policy
reward:
  path: reward
data:
  prompts: prompts.jsonl
  pretrain: text.jsonl
run:
  dir: out
ppo:
  steps: 100
"""


def error_of(schema: type[Recipe], path: Path, *overrides: str) -> str:
    """Return the message with which loading a recipe fails."""
    with pytest.raises(RecipeError) as caught:
        load(schema, path, overrides)
    return str(caught.value)
