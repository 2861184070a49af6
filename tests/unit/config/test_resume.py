"""Which keys may change when a run resumes: those that do not affect its result, and its length."""

import pytest
import yaml

from config import load, resolved_yaml
from config.resume import changes
from config.trainer import BATCH_DEFAULTS, CHANGEABLE_FIELDS, LENGTH_FIELDS
from config.trl_source import trl_fields
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT

YAML = {
    PPO: "stage: ppo\nmodel: {path: a}\nreward: {path: b}\ndata: {prompts: c, pretrain: d, heldout: e}\n"
    "ppo: {steps: 100}\nrun: {dir: x}\n",
    SFT: "stage: sft\nmodel: {path: a}\ndata: {train: b, eval: c}\nrun: {dir: x}\n",
    Reward: "stage: reward\nmodel: {path: a}\ndata: {train: b, eval: c}\nrun: {dir: x}\n",
}


@pytest.fixture
def compare(tmp_path):
    """Return a function that compares a recipe under the overrides `before` with the same recipe under `now`."""

    def compare(schema, now, before=()):
        file = tmp_path / "recipe.yaml"
        file.write_text(YAML[schema])
        return changes(resolved_yaml(load(schema, file, before)), load(schema, file, now))

    return compare


@pytest.mark.parametrize(
    ("schema", "overrides"),
    [
        (PPO, ["sampling.batch_size=2", "ppo.micro_batch_tokens=64", "model.attention=sdpa", "run.save_steps=3"]),
        (PPO, ["run.report_to=[tensorboard]", "run.keep_checkpoints=9", "watch.gold=a:b", "watch.every=3", "watch.kl=9",
               "watch.show_samples_every=0", "ppo.log_samples=0", "ppo.log_samples_every=2"]),
        (PPO, ["run.dir=y", "run.max_hours=1", "run.local_dir=/z", "run.push_to_hub=a/b", "run.hub_private=false"]),
        (PPO, ["ppo.offload_frozen=true", "ppo.gradient_checkpointing=true", "reward.judge.parallel=2",
               "reward.judge.timeout=3.0", "reward.judge.retries=1"]),
        (SFT, ["run.save_steps=3", "trainer.logging_steps=1", "trainer.eval_steps=5",
               "trainer.gradient_checkpointing=false", "trainer.per_device_eval_batch_size=1"]),
        (SFT, ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=4"]),  # 8 rows, as before
        (Reward, ["reward.share_prompts=false", "run.save_steps=2"]),
    ],
)  # fmt: skip
def test_keys_that_do_not_affect_the_result_may_change(compare, schema, overrides):
    found = compare(schema, overrides)
    assert found.refused == ()
    assert found.permitted == tuple(sorted(override.partition("=")[0] for override in overrides))
    assert not found.grown


@pytest.mark.parametrize(
    ("schema", "overrides", "refused"),
    [
        (PPO, ["ppo.lam=0.5", "run.seed=1"], "ppo.lam, run.seed"),
        (PPO, ["sampling.top_p=0.5", "run.save_steps=3"], "sampling.top_p (run.save_steps may change)"),
        (PPO, ["ppo.steps=99"], "ppo.steps (it may only grow)"),
        (SFT, ["trainer.per_device_train_batch_size=2"],
         "trainer.per_device_train_batch_size (a step has 8 rows and would have 2)"),
        (SFT, ["trainer.learning_rate=1e-3"], "trainer.learning_rate"),
        (SFT, ["data.fields={q: prompt}"], "data.fields.q"),
    ],
)  # fmt: skip
def test_keys_that_affect_the_result_may_not_change(compare, schema, overrides, refused):
    assert str(compare(schema, overrides)) == refused


def test_save_steps_may_not_change_under_keep_best(compare):
    found = compare(Reward, ["reward.keep_best=true", "run.save_steps=2"], ["reward.keep_best=true"])
    assert found.refused == ("run.save_steps (reward.keep_best chooses among the checkpoints)",)


@pytest.mark.parametrize(("schema", "section"), [(SFT, "sft"), (Reward, "reward"), (PPO, "watch")])
def test_patience_may_grow(compare, schema, section):
    keep = [f"{section}.keep_best={'heldout_score' if schema is PPO else 'true'}", "run.save_steps=10"]
    fewer, more = ([*keep, f"{section}.patience={count}"] for count in (2, 3))
    assert compare(schema, more, fewer).grown
    assert compare(schema, fewer, more).refused == (f"{section}.patience (it may only grow)",)


def test_keys_that_choose_the_best_policy_may_not_change(compare):
    best = ["run.save_steps=10", "watch.gold=a:b"]
    other = ["run.save_steps=20", "watch.gold=c:d", "watch.every=5", "watch.kl=9"]
    among = "watch.keep_best chooses among the checkpoints"
    by_gold, by_score = ([*best, f"watch.keep_best=heldout_{name}"] for name in ("gold", "score"))
    assert compare(PPO, [*by_gold, *other], by_gold).refused == (
        f"run.save_steps ({among})", f"watch.every ({among})", "watch.gold (watch.keep_best chooses by it)",
    )  # fmt: skip
    assert compare(PPO, [*by_score, *other], by_score).refused == (
        f"run.save_steps ({among})", f"watch.every ({among})",
    )  # fmt: skip
    assert compare(PPO, by_gold, by_score).refused == ("watch.keep_best",)
    assert compare(PPO, [*by_gold, "ppo.steps=200"], by_gold).grown


@pytest.mark.parametrize(
    ("schema", "key", "schedule", "reason"),
    [
        (PPO, "ppo.steps", "ppo.lr_scheduler_type=constant", None),
        (PPO, "ppo.steps", "ppo.lr_scheduler_type=cosine", "ppo.lr_scheduler_type=cosine falls to 0 at the last step"),
        (SFT, "trainer.max_steps", "trainer.lr_scheduler_type=constant", None),
        (SFT, "trainer.num_train_epochs", "trainer.lr_scheduler_type=constant_with_warmup", None),
        (Reward, "trainer.max_steps", "trainer.lr_scheduler_type=cosine",
         "trainer.lr_scheduler_type=cosine depends on the last step"),
        (SFT, "trainer.max_steps", "trainer={lr_scheduler_type: constant_with_warmup, warmup_steps: 0.1}",
         "the warm-up is a share of all steps"),
    ],
)  # fmt: skip
def test_a_run_may_become_longer_unless_its_schedule_depends_on_the_end(compare, schema, key, schedule, reason):
    found = compare(schema, [schedule, f"{key}=200"], [schedule, f"{key}=100"])
    assert found.grown is (reason is None)
    assert found.only_longer is (reason is not None)
    assert not compare(schema, [schedule, f"{key}=200", "run.seed=1"], [schedule, f"{key}=100"]).only_longer
    assert found.refused == (() if reason is None else (f"{key} ({reason})",))


def test_a_key_missing_from_an_older_run_is_compared_as_its_default(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(YAML[PPO])
    recipe = load(PPO, file)
    old = yaml.safe_load(resolved_yaml(recipe))
    del old["stage"], old["watch"], old["ppo"]["importance_cap"], old["run"]["local_dir"]
    assert changes(yaml.safe_dump(old), recipe).refused == ()
    assert changes(yaml.safe_dump(old), load(PPO, file, ["ppo.importance_cap=2"])).refused == ("ppo.importance_cap",)


def test_field_names_and_defaults_equal_trls():
    from trl import SFTConfig

    assert {*CHANGEABLE_FIELDS, *LENGTH_FIELDS} <= trl_fields("SFTConfig").keys()
    assert {name: getattr(SFTConfig, name) for name in BATCH_DEFAULTS} == BATCH_DEFAULTS
