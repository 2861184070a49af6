"""Every recipe that is shipped loads, and holds the figures it is made for."""

from dataclasses import replace
from pathlib import Path

import pytest

from config import RecipeError, load, resolved_yaml
from config.schema import STAGES, Recipe
from config.stage import stage_of
from eval.recipe import Eval
from ppo.recipe import PPO
from reward.annotation.recipe import GenerateCandidates, MakePairs, SelectPrompts
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.paths import ROOT

SCHEMAS = {schema.STAGE: schema for schema in (SFT, Reward, PPO, Eval, SelectPrompts, GenerateCandidates, MakePairs)}
SHIPPED = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.parent.name != "accelerate")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TINY", "runs/tiny")


def schema_of(path: Path) -> type[Recipe]:
    return SCHEMAS[stage_of(path)]


def mandatory(path: Path) -> list[str]:
    """Overrides for what a shipped recipe leaves to the user."""
    if path.parent.name.startswith("tiny"):
        return []
    return ["data.prompts=p.jsonl", "data.pretrain=t.jsonl"] if stage_of(path) == "ppo" else ["data.train=d.jsonl"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_recipe_loads_and_repeats_itself(path, tmp_path):
    schema = schema_of(path)
    got = load(schema, path, mandatory(path))
    assert isinstance(got, schema)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(got))
    assert load(schema, tmp_path / "recipe.yaml") == got
    assert all(isinstance(item, str) for pair in got.inputs() for item in pair)
    if not path.parent.name.startswith("tiny"):
        with pytest.raises(RecipeError, match=" missing; add "):
            load(schema, path)


def test_every_stage_has_a_schema_and_a_shipped_recipe():
    assert set(SCHEMAS) == set(STAGES) == {stage_of(path) for path in SHIPPED}


def test_the_sizes_differ_from_the_7b_recipes_in_nothing_but_size():
    for stage in ("sft", "pmp", "rm", "ppo"):
        for size in ("0.5b", "1.8b", "14b", "72b"):
            big, other = (
                load(schema_of(path), path, mandatory(path))
                for path in (Path(f"recipes/qwen1.5-{name}/{stage}.yaml") for name in ("7b", size))
            )
            same = {"model": big.model, "run": big.run}
            if stage == "ppo":
                same["reward"] = big.reward
            else:
                split = ("per_device_train_batch_size", "gradient_accumulation_steps")
                same["trainer"] = other.trainer | {name: big.trainer[name] for name in split}
            assert replace(other, **same) == big
            assert size in other.run.dir


def test_the_reports_figures_stand_in_the_recipes():
    sft, pmp, ppo = (load(schema_of(path), path, mandatory(path)) for path in
                     (Path(f"recipes/qwen1.5-7b/{name}.yaml") for name in ("sft", "pmp", "ppo")))  # fmt: skip
    trainer = sft.trainer
    assert (trainer["max_steps"], trainer["warmup_steps"], trainer["learning_rate"]) == (4000, 1430, 2e-6)
    assert (trainer["weight_decay"], sft.model.attention_dropout, trainer["max_grad_norm"]) == (0.1, 0.1, 1.0)
    assert (trainer["adam_beta1"], trainer["adam_beta2"], trainer["adam_epsilon"]) == (0.9, 0.95, 1e-8)
    assert (sft.data.max_length, pmp.data.max_length) == (2048, 2048)
    assert trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] == 128
    trainer = pmp.trainer
    assert (trainer["learning_rate"], trainer["lr_scheduler_type"], trainer["num_train_epochs"]) == (
        3e-6,
        "constant",
        1,
    )
    assert trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] == 64
    assert (ppo.ppo.value_warmup_steps, ppo.ppo.responses_per_query, ppo.ppo.kl_coef) == (50, 2, 0.04)
    assert (ppo.ppo.value_clip, ppo.sampling.top_p, ppo.ppo.reward_normalisation) == (0.15, 0.9, "mean")
    assert (ppo.ppo.policy_learning_rate, ppo.ppo.value_learning_rate) == (1e-6, 5e-6)
