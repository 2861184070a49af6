"""Recipes that ask for the best checkpoint and cannot choose one; each way out that is named works."""

import re

import pytest

from config import RecipeError, load
from ppo.recipe import PPO

YAML = (
    "stage: ppo\nmodel: {path: a}\nreward: {path: b}\ndata: {prompts: c, pretrain: d}\nppo: {steps: 100}\n"
    "run: {dir: x}\n"
)
HELDOUT, GOLD = "data.heldout=e", "watch.gold=a:b"
SCORE_BEST, GOLD_BEST = "watch.keep_best=heldout_score", "watch.keep_best=heldout_gold"


@pytest.fixture
def recipe(tmp_path):
    """A function that loads the recipe under overrides."""
    (tmp_path / "ppo.yaml").write_text(YAML)
    return lambda *overrides: load(PPO, tmp_path / "ppo.yaml", overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([SCORE_BEST],
         "watch.keep_best is heldout_score, but there is nothing to choose by; give data.heldout, or set "
         "watch.keep_best=null"),
        ([HELDOUT, GOLD_BEST],
         "watch.keep_best is heldout_gold, but nothing measures it; give watch.gold, or set "
         "watch.keep_best=heldout_score"),
        ([HELDOUT, SCORE_BEST, "run.save_steps=25"],
         "watch.keep_best chooses among the checkpoints, of which there is one every run.save_steps=25 steps, but "
         "data.heldout is measured every watch.every=10; set watch.every=25, or run.save_steps=30"),
        ([HELDOUT, SCORE_BEST, "run.save_steps=5"],
         "watch.keep_best chooses among the checkpoints, of which there is one every run.save_steps=5 steps, but "
         "data.heldout is measured every watch.every=10; set watch.every=5, or run.save_steps=10"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_by_is_refused(recipe, overrides, message):
    with pytest.raises(RecipeError) as error:
        recipe(*overrides)
    assert str(error.value) == message
    for way_out in re.findall(r"[\w.]+=\w+", message.rpartition("; ")[2]):
        recipe(*overrides, way_out)


@pytest.mark.parametrize(
    ("save_steps", "every"), [(10, 10), (30, 10), (1, 1)], ids=["each measurement", "each third", "each step"]
)
def test_all_checkpoints_are_measured(recipe, save_steps, every):
    made = recipe(HELDOUT, GOLD, GOLD_BEST, f"run.save_steps={save_steps}", f"watch.every={every}")
    assert made.watch.keep_best == "heldout_gold"


def test_an_unknown_measure_is_refused(recipe):
    with pytest.raises(RecipeError) as error:
        recipe(HELDOUT, "watch.keep_best=score")
    assert str(error.value) == "watch.keep_best is score; it must be one of heldout_score, heldout_gold or null"
