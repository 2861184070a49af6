"""Recipes of PPO: valid and invalid settings of keep_best and of reward mixes."""

import re

import pytest

from config import RecipeError, load
from config.loader import resolved_yaml
from config.scoring import scoring
from engine.run.metrics import TIMING
from ppo.recipe import PPO
from ppo.reward_section import RESERVED_WORDS

YAML = (
    "stage: ppo\nmodel: {path: a}\nreward: {path: b}\ndata: {prompts: c, pretrain: d}\nppo: {steps: 100}\n"
    "run: {dir: x}\n"
)
HELDOUT, GOLD = "data.heldout=e", "watch.gold=a:b"
SCORE_BEST, GOLD_BEST = "watch.keep_best=heldout_score", "watch.keep_best=heldout_gold"


@pytest.fixture
def load_recipe(tmp_path):
    """Return a function that loads the recipe with overrides."""
    (tmp_path / "ppo.yaml").write_text(YAML)
    return lambda *overrides: load(PPO, tmp_path / "ppo.yaml", overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([SCORE_BEST],
         "watch.keep_best is heldout_score, but there are no held-out prompts; give data.heldout, or set "
         "watch.keep_best=null"),
        ([HELDOUT, GOLD_BEST],
         "watch.keep_best is heldout_gold, but there is no gold scorer; give watch.gold, or set "
         "watch.keep_best=heldout_score"),
        ([HELDOUT, SCORE_BEST, "run.save_steps=25"],
         "watch.keep_best chooses among the checkpoints, saved every run.save_steps=25 steps, but "
         "data.heldout is evaluated every watch.every=10 steps; set watch.every=25, or run.save_steps=30"),
        ([HELDOUT, SCORE_BEST, "run.save_steps=5"],
         "watch.keep_best chooses among the checkpoints, saved every run.save_steps=5 steps, but "
         "data.heldout is evaluated every watch.every=10 steps; set watch.every=5, or run.save_steps=10"),
    ],
)  # fmt: skip
def test_keep_best_without_its_measure_at_every_checkpoint_is_refused(load_recipe, overrides, message):
    with pytest.raises(RecipeError) as error:
        load_recipe(*overrides)
    assert str(error.value) == message
    for way_out in re.findall(r"[\w.]+=\w+", message.rpartition("; ")[2]):
        load_recipe(*overrides, way_out)


@pytest.mark.parametrize(
    ("save_steps", "every"), [(10, 10), (30, 10), (1, 1)], ids=["each measurement", "each third", "each step"]
)
def test_keep_best_is_accepted_if_every_checkpoint_is_measured(load_recipe, save_steps, every):
    loaded = load_recipe(HELDOUT, GOLD, GOLD_BEST, f"run.save_steps={save_steps}", f"watch.every={every}")
    assert loaded.watch.keep_best == "heldout_gold"


def test_an_unknown_measure_for_keep_best_is_refused(load_recipe):
    with pytest.raises(RecipeError) as error:
        load_recipe(HELDOUT, "watch.keep_best=score")
    assert str(error.value) == "watch.keep_best is score; it must be one of heldout_score, heldout_gold or null"


def test_a_mix_keeps_its_order_and_a_part_may_be_a_path(load_recipe, tmp_path):
    loaded = load_recipe(
        "reward.path=null",
        "reward.mix={helpful: ./runs/a, harmless: {path: [./runs/b, ./runs/c], std_coef: 1.0, weight: 2}, "
        'brief: {rule: "rules:brief", weight: 0.5}}',
    )
    assert [(part.name, part.key, part.weight) for part in loaded.reward.parts] == [
        ("helpful", "reward.mix.helpful", 1.0), ("harmless", "reward.mix.harmless", 2.0),
        ("brief", "reward.mix.brief", 0.5),
    ]  # fmt: skip
    assert [part.scoring.std_coef for part in loaded.reward.parts] == [0.0, 1.0, 0.0]
    assert loaded.reward.models == [
        ("reward.mix.helpful.path", "./runs/a"), ("reward.mix.harmless.path", "./runs/b"),
        ("reward.mix.harmless.path", "./runs/c"),
    ]  # fmt: skip
    assert list(loaded.inputs())[:3] == loaded.reward.models
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(loaded))
    assert load(PPO, tmp_path / "resolved.yaml") == loaded


def test_a_single_reward_has_one_part(load_recipe):
    (part,) = load_recipe().reward.parts
    assert (part.name, part.key, part.weight, part.scoring.path) == ("", "reward", 1.0, "b")
    assert load_recipe().reward.models == [("reward.path", "b")]


ONE_OF = "give one of reward.path, reward.rule, reward.judge.url, reward.mix"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward.path=null"], f"reward has nothing that scores; {ONE_OF}"),
        (["reward.path=b", "reward.mix={a: x/a, b: x/b}"],
         "reward has reward.path and reward.mix; set reward.mix={} for a single reward, or reward.path=null"),
        (["reward.path=null", "reward.mix={a: x/a}"],
         "reward.mix has only one part, a; add another, or give the reward as reward.path, reward.rule or "
         "reward.judge.url"),
        (["reward.path=null", "reward.mix={a: x/a, b: {path: x/b, weight: 0}}"],
         "reward.mix.b.weight is 0.0; it must be above 0"),
        (["reward.path=null", "reward.mix={a: x/a, b: {path: x/b, weight: .inf}}"],
         "reward.mix.b.weight is inf; it must be a finite number"),
        (["reward.path=null", "reward.mix={a: x/a, b: {path: x/b, weight: heavy}}"],
         "reward.mix.b.weight is heavy; it must be a number"),
        (["reward.path=null", "reward.mix={a: x/a, b: {weight: 2}}"],
         "reward.mix.b has nothing that scores; give one of reward.mix.b.path, reward.mix.b.rule, "
         "reward.mix.b.judge.url"),
        (["reward.path=null", "reward.mix={a: x/a, b: {mix: {c: x/c}}}"],
         "unknown key reward.mix.b.mix; reward.mix.b has path, std_coef, rule, judge, weight"),
        (["reward.path=null", "reward.mix={a: x/a, b: {path: x/b, std_coef: 1}}"],
         "reward.mix.b.std_coef is 1.0, which needs several models in reward.mix.b.path; list them, or set "
         "reward.mix.b.std_coef=0"),
        (["reward.path=null", "reward.mix={a: x/a, 'b c': x/b}"],
         "reward.mix has the name b c; use only letters, digits, _ and -, because names are parts of keys"),
        (["reward.path=null", "reward.mix={a: x/a, seconds: x/b}"],
         "reward.mix has the name seconds, but metrics with seconds in their names are not scores; rename it"),
        (["reward.path=null", "reward.mix={a: x/a, b: x/b}", "reward.std_coef=1"],
         "reward.std_coef is 1.0, which needs several models in reward.path; list them, or set reward.std_coef=0"),
        (["reward.path=null", "reward.mix=[x/a, x/b]"], "reward.mix is [x/a, x/b]; it must be a mapping"),
        (["reward.weight=2"], "unknown key reward.weight; reward has path, std_coef, rule, judge, mix"),
    ],
)  # fmt: skip
def test_invalid_rewards_and_mixes_are_refused(load_recipe, overrides, message):
    with pytest.raises(RecipeError) as error:
        load_recipe(*overrides)
    assert str(error.value) == message


def test_a_mix_is_refused_outside_ppo():
    with pytest.raises(RecipeError) as error:
        scoring({"mix": {"a": "x", "b": "y"}}, "eval.rewards.both")
    assert str(error.value) == ("unknown key eval.rewards.both.mix; eval.rewards.both has path, std_coef, rule, judge")


def test_names_refused_for_parts_are_those_of_timing_metrics():
    assert RESERVED_WORDS.pattern == TIMING.pattern
