"""Every shipped recipe loads and has the report's hyper-parameters."""

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


pytestmark = pytest.mark.usefixtures("at_root")


def schema_of(path: Path) -> type[Recipe]:
    return SCHEMAS[stage_of(path)]


def required_overrides(path: Path) -> list[str]:
    """Return overrides for the keys that a shipped recipe leaves to the user."""
    if path.parent.name.startswith("tiny"):
        return []
    return ["data.prompts=p.jsonl", "data.pretrain=t.jsonl"] if stage_of(path) == "ppo" else ["data.train=d.jsonl"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_recipe_loads_and_survives_writing_and_reading(path, tmp_path):
    schema = schema_of(path)
    got = load(schema, path, required_overrides(path))
    assert isinstance(got, schema)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(got))
    assert load(schema, tmp_path / "recipe.yaml") == got
    assert all(isinstance(item, str) for pair in got.inputs() for item in pair)
    if not path.parent.name.startswith("tiny"):
        with pytest.raises(RecipeError, match=" missing; add "):
            load(schema, path)


def test_every_stage_has_a_schema_and_a_shipped_recipe():
    assert set(SCHEMAS) == set(STAGES) == {stage_of(path) for path in SHIPPED}


def test_other_sizes_differ_from_the_7b_recipes_only_in_size():
    for stage in ("sft", "pmp", "rm", "ppo"):
        for size in ("0.5b", "1.8b", "14b", "72b"):
            expected, recipe = (
                load(schema_of(path), path, required_overrides(path))
                for path in (Path(f"recipes/qwen1.5-{name}/{stage}.yaml") for name in ("7b", size))
            )
            same = {"model": expected.model, "run": expected.run}
            if stage == "ppo":
                same["reward"] = expected.reward
            else:
                split = ("per_device_train_batch_size", "gradient_accumulation_steps")
                same["trainer"] = recipe.trainer | {name: expected.trainer[name] for name in split}
            assert replace(recipe, **same) == expected
            assert size in recipe.run.dir


def test_hyper_parameters_are_the_reports():
    sft, pmp, ppo = (load(schema_of(path), path, required_overrides(path)) for path in
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
