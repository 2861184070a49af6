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
# Not those that compare reward models alone, or start from a model that the user names.
SETS = sorted({path.parent for path in SHIPPED if path.parent.name not in ("tiny-rewards", "your-model")})


pytestmark = pytest.mark.usefixtures("at_root")


def schema_of(path: Path) -> type[Recipe]:
    return SCHEMAS[stage_of(path)]


def required_overrides(path: Path) -> list[str]:
    """Return overrides for the keys that a shipped recipe leaves to the user."""
    if path.parent.name.startswith("tiny"):
        return []
    stage = stage_of(path)
    needs_text = stage == "ppo" and path.parent.name != "your-model"
    return ["data.pretrain=t.jsonl"] * needs_text + [
        "data.prompts=p.jsonl" if stage in ("ppo", "eval") else "data.train=d.jsonl"
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_recipe_loads_and_survives_writing_and_reading(path, tmp_path):
    schema = schema_of(path)
    got = load(schema, path, required_overrides(path))
    assert isinstance(got, schema)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(got))
    assert load(schema, tmp_path / "recipe.yaml") == got
    assert all(isinstance(item, str) for pair in got.inputs() for item in pair)
    if not path.parent.name.startswith("tiny"):
        with pytest.raises(RecipeError, match=r" missing; add |; give .* data\.prompts"):
            load(schema, path)


def test_every_stage_has_a_schema_and_a_shipped_recipe():
    assert set(SCHEMAS) == set(STAGES) == {stage_of(path) for path in SHIPPED}


def test_other_sizes_differ_from_the_7b_recipes_only_in_size():
    for stage in ("sft", "pmp", "rm", "ppo", "eval"):
        for size in ("0.5b", "1.8b", "14b", "72b"):
            expected, recipe = (
                load(schema_of(path), path, required_overrides(path))
                for path in (Path(f"recipes/qwen1.5-{name}/{stage}.yaml") for name in ("7b", size))
            )
            same = {"model": expected.model, "run": expected.run}
            if stage == "ppo":
                same["reward"] = expected.reward
            elif stage == "eval":
                same["eval"] = replace(recipe.eval, subjects=expected.eval.subjects, rewards=expected.eval.rewards)
            else:
                split = ("per_device_train_batch_size", "gradient_accumulation_steps")
                same["trainer"] = recipe.trainer | {name: expected.trainer[name] for name in split}
            assert replace(recipe, **same) == expected
            assert size in recipe.run.dir


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_every_set_has_an_evaluation_of_its_own_models(folder):
    """Subjects and rewards are what the set's recipes train or start from, sampled and read as in training."""
    path = folder / "eval.yaml"
    evaluation = load(Eval, path, required_overrides(path))
    beside = [other for other in SHIPPED if other.parent == folder]
    stages = {other.stem: load(schema_of(other), other, required_overrides(other)) for other in beside}
    models = {name: f"{recipe.run.dir}/model" for name, recipe in stages.items() if recipe.STAGE != "eval"}
    subjects, rewards = dict(evaluation.eval.subjects), dict(evaluation.eval.rewards)
    if folder.name in ("tiny", "tiny-mini"):
        assert subjects.pop("best_of_n") == {"best_of": "sft", "n": 8, "reward": "rm"}
    if "base" not in models:
        models["base"] = stages["pretrain" if "pretrain" in stages else "sft"].model.path
    if folder.name == "tiny-annotated":
        models = models | {"annotated": models["rm"], "rm": "runs/tiny/rm/model"}
    assert subjects == {name: models[name] for name in subjects}
    assert rewards == {name: models[name] for name in rewards}
    trained = {name for name, recipe in stages.items() if recipe.STAGE in ("sft", "ppo")}
    assert subjects.keys() == trained | {"base"}
    assert {models[name] for name, recipe in stages.items() if recipe.STAGE == "reward"} <= {*rewards.values()}
    assert {recipe.chatml for recipe in stages.values() if recipe.STAGE == "ppo"} <= {evaluation.chatml}
    if "ppo" in stages and not folder.name.startswith("tiny"):
        for key in ("top_p", "temperature", "max_new_tokens"):
            assert getattr(evaluation.sampling, key) == getattr(stages["ppo"].sampling, key)
        assert evaluation.data.max_prompt_tokens == stages["ppo"].data.max_prompt_tokens
        assert evaluation.data.max_length == stages["rm"].data.max_length


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


def test_the_stages_of_your_model_follow_one_another():
    """SFT and reward model are adapters of MODEL, which PPO shares; the evaluation compares all three."""
    sft, rm, ppo, evaluation = (
        load(schema_of(path), path, required_overrides(path))
        for path in (Path(f"recipes/your-model/{name}.yaml") for name in ("sft", "rm", "ppo", "eval"))
    )
    assert sft.model.path == rm.model.path == evaluation.eval.subjects["start"] == "owner/name"
    assert (sft.lora, rm.lora.merge) == (rm.lora, False)
    assert (ppo.models, ppo.model.path, ppo.reward.path) == ("shared", f"{sft.run.dir}/model", f"{rm.run.dir}/model")
    assert evaluation.eval.subjects["sft"] == ppo.model.path
    assert evaluation.eval.subjects["ppo"] == f"{ppo.run.dir}/model"
    assert evaluation.eval.rewards == {"rm": ppo.reward.path}
    assert (evaluation.sampling.max_new_tokens, evaluation.data.max_prompt_tokens) == (
        ppo.sampling.max_new_tokens, ppo.data.max_prompt_tokens,
    )  # fmt: skip


def test_your_model_needs_a_model(monkeypatch):
    monkeypatch.delenv("MODEL")
    with pytest.raises(RecipeError) as caught:
        load(SFT, "recipes/your-model/sft.yaml", ["data.train=d.jsonl"])
    assert str(caught.value) == (
        "recipes/your-model/sft.yaml:9: model.path is the environment variable MODEL, which is not set; give "
        "MODEL=VALUE to make, or model.path=VALUE in ARGS"
    )
