"""Every mistake that a user can make in a recipe or an override is one exact line."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from config import load
from config.schema import STAGES, Recipe
from config.sections import Run
from ppo.recipe import PPO
from sft.recipe import SFT
from tests.support.recipe_setting import PPO_YAML, error_of

pytestmark = pytest.mark.usefixtures("at_root")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("kl_coef=0.1", "unknown key kl_coef; did you mean ppo.kl_coef?"),
        ("ppo.top_p=0.9", "unknown key ppo.top_p; did you mean sampling.top_p?"),
        ("lr=1", "unknown key lr; did you mean ppo.policy_learning_rate or ppo.value_learning_rate?"),
        ("epochs=1", "unknown key epochs; did you mean ppo.epochs?"),
        (
            "zzz=1",
            "unknown key zzz; the recipe has stage, model, reward, models, chatml, data, sampling, ppo, watch, run",
        ),
        (
            "run.zzz=1",
            "unknown key run.zzz; run has dir, seed, save_steps, keep_checkpoints, report_to, max_hours, local_dir, "
            "push_to_hub, hub_private",
        ),
        ("model={pth: a}", "unknown key model.pth; did you mean model.path?"),
        ("ppo.steps=1.5", "ppo.steps is 1.5; it must be a whole number"),
        ("ppo.steps=abc", "ppo.steps is abc; it must be a whole number"),
        ("ppo.steps=true", "ppo.steps is true; it must be a whole number"),
        ("ppo.steps=", "ppo.steps is empty; it must be a whole number"),
        ("ppo.steps=null", "ppo.steps is empty; it must be a whole number"),
        ("ppo.kl_coef", "ppo.kl_coef is not an override; write key=value, for example run.seed=1"),
        ("=1", "=1 is not an override; write key=value, for example run.seed=1"),
        (
            "b}",
            "b} is not an override; if it belongs to the value before it, put quotes around the whole: 'key={a: b}'",
        ),
        ("ppo.whiten_advantages=2", "ppo.whiten_advantages is 2; it must be true or false"),
        ("model.dtype=fp16", "model.dtype is fp16; it must be one of auto, float32, bfloat16"),
        (
            "model=3",
            "model is 3, but it is a section; set its keys: "
            "model.path, model.revision, model.dtype, model.attention, model.attention_dropout",
        ),
        ("run.report_to={a: b}", "run.report_to is {a: b}; it must be a list in brackets, each item text"),
        ("data.fields=prompt", "data.fields is prompt; it must be a mapping"),
        ("data.fields.a.b=c", "data.fields.a.b is not a separate key; set data.fields.a as a whole"),
        ("data.prompts=[{weight: 2}]", "data.prompts[0] is {weight: 2}, without a path; add path: FILE"),
        ("data.prompts=[{pth: a}]", "unknown key data.prompts[0].pth; did you mean data.prompts[0].path?"),
        ("data.prompts.0.path=x", "data.prompts.0.path is not a separate key; set data.prompts as a whole"),
        ("data.prompts=[]", "data.prompts is an empty list; name at least one source"),
        (
            "data.prompts=3",
            "data.prompts is 3; it must be a path, a hub id, or a mapping with the keys "
            "path, split, name, revision, fields, weight, skip, take, without_share, "
            "only_share",
        ),
        ("data.prompts={path: a, take: 0}", "data.prompts.take is 0; it must be at least 1"),
        ("data.prompts={path: a, weight: .inf}", "data.prompts.weight is inf; it must be a finite number"),
        ("reward.path=[]", "reward.path is []; it must be a path or a list of paths"),
        ("ppo.kl_coef=nan", "ppo.kl_coef is nan; it must be a finite number"),
        ("ppo.kl_coef=-.inf", "ppo.kl_coef is -inf; it must be a finite number"),
        ("ppo.clip=0", "ppo.clip is 0.0; it must be above 0"),
        ("ppo.gamma=1.5", "ppo.gamma is 1.5; it must be at least 0 and at most 1"),
        ("sampling.top_p=0", "sampling.top_p is 0.0; it must be above 0 and at most 1"),
        ("sampling.temperature=0", "sampling.temperature is 0.0; it must be above 0"),
        ("run.seed=-1", "run.seed is -1; it must be at least 0 and below 4294967296"),
        ("data.max_prompt_tokens=8", "data.max_prompt_tokens is 8; it must be at least 16"),
        ("ppo.policy_learning_rate=0", "ppo.policy_learning_rate is 0.0; it must be above 0"),
        (
            "ppo.adam_betas=[0.9]",
            "ppo.adam_betas is [0.9]; it must be two numbers, each at least 0 and below 1",
        ),
        ("ppo.adam_betas=[0.9, x]", "ppo.adam_betas is [0.9, x]; it must be a list in brackets, each item a number"),
        (
            "ppo.value_warmup_steps=101",
            "ppo.value_warmup_steps is 101, but the run has 100 steps; lower it, or raise ppo.steps",
        ),
        (
            "ppo.minibatches=3",
            "ppo.minibatches is 3, which does not divide the 128 responses of a step; "
            "change it, ppo.queries_per_step or ppo.responses_per_query",
        ),
        (
            "data.pretrain=null",
            "ppo.pretrain_coef is 0.1, but there is no pretraining text; "
            "give data.pretrain, or set ppo.pretrain_coef=0",
        ),
        (
            "ppo.steps=${oc.env:PLUMB_NO}",
            "ppo.steps is the environment variable PLUMB_NO, which is not set; give PLUMB_NO=VALUE to make, or "
            "ppo.steps=VALUE in ARGS",
        ),
        ("ppo.steps=${ppo.no}", "ppo.steps cannot be resolved: Interpolation key 'ppo.no' not found"),
        (
            "model.path=${x",
            "model.path is ${x, which is not a valid interpolation; write \\${ for a literal ${",
        ),
    ],
)
def test_a_mistake_in_an_override_is_one_exact_line(write_recipe, override, expected):
    assert error_of(PPO, write_recipe(PPO_YAML), override) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  path: x\n  dtyp: auto\n", "FILE:3: unknown key model.dtyp; did you mean model.dtype?"),
        ("run:\n  seed: 1.5\n", "FILE:2: run.seed is 1.5; it must be a whole number"),
        ("run:\n  dir: 5\n", "FILE:2: run.dir is read by YAML as 5, which is not text; put it in quotes"),
        ("run:\n", "FILE:1: run is empty, but it is a section; set its keys: "
                   "run.dir, run.seed, run.save_steps, run.keep_checkpoints, run.report_to, run.max_hours, "
                   "run.local_dir, run.push_to_hub, run.hub_private"),
        ("run: {dir: a}\nmodel: {path: a}\ndata:\n  train:\n  - pth: a\n",
         "FILE:4: unknown key data.train[0].pth; did you mean data.train[0].path?"),
        ("run: {dir: a}\nmodel: {path: a}\ndata:\n  train: a\n  max_length: 8\n",
         "FILE:5: data.max_length is 8; it must be at least 16"),
        ("- a\n", "FILE: a recipe is a mapping of sections; this is [a]"),
        ("a: [1\n", "FILE:2: not valid YAML (did not find expected ',' or ']')"),
        ("a: 1\na: 2\n", "FILE:2: not valid YAML (found duplicate key a)"),
        ("extends: no.yaml\n", "FILE:1: extends FOLDER/no.yaml does not exist; name a recipe file"),
        ("extends: [a]\n", "FILE:1: extends is [a]; it must name one recipe"),
        ("extends: recipe.yaml\n", "FILE:1: extends FILE, which extends this file in turn"),
        ("run: {dir: a}\n", "FILE: model.path and data.train are missing; add model.path=VALUE data.train=VALUE "
                            "to the command (with make, to ARGS) or to the file"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_names_file_and_line(write_recipe, text, expected):
    path = write_recipe(text if text.startswith(("-", "a: ")) else f"{text}stage: sft\n")
    assert error_of(SFT, path) == expected.replace("FILE", str(path)).replace("FOLDER", str(path.parent))


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("run: {dir: a}\n", [], 'FILE has no stage; add "stage: sft" as its first line'),
        ("stage: sft\n", ["stage=ppo"], "stage is ppo, but this command runs sft; use make ppo"),
        ("run: {dir: a}\nstage: reward\n", [], "FILE:2: stage is reward, but this command runs sft; use make rm"),
        ("stage: stf\n", [], f"FILE:1: stage is stf; it must be one of {', '.join(STAGES)}"),
        ("stage:\n", [], f"FILE:1: stage is empty; it must be one of {', '.join(STAGES)}"),
        ("extends: parent.yaml\n", [], "PARENT:1: stage is ppo, but this command runs sft; use make ppo"),
    ],
)  # fmt: skip
def test_a_missing_or_wrong_stage_is_reported_before_other_mistakes(write_recipe, text, overrides, expected):
    parent = write_recipe("stage: ppo\nzzz: 1\n", "parent.yaml")
    path = write_recipe(text)
    assert error_of(SFT, path, *overrides) == expected.replace("FILE", str(path)).replace("PARENT", str(parent))


def test_a_command_for_recipes_of_any_stage_needs_a_stage_too(write_recipe):
    @dataclass(frozen=True)
    class AnyStage(Recipe):
        run: Run = field(default_factory=Run)

    path = write_recipe("run: {dir: a}\n")
    assert error_of(AnyStage, path) == (
        f'{path} has no stage; add one as its first line, for example "stage: sft" '
        "(sft, reward, ppo, eval, prompts, candidates, pairs)"
    )
    assert load(AnyStage, path, ["stage=pairs"]).stage == "pairs"


def test_a_field_of_trl_at_the_top_level_is_corrected_to_its_key(write_recipe):
    path = write_recipe("stage: sft\nmodel: {path: m}\nrun: {dir: a}\ndata: {train: a}\n")
    assert error_of(SFT, path, "learning_rate=1e-4") == (
        "unknown key learning_rate; did you mean trainer.learning_rate?"
    )
    assert error_of(SFT, path, "max_length=9") == "unknown key max_length; did you mean data.max_length?"


def test_messages_for_missing_and_unreadable_recipe_files(tmp_path):
    assert (
        error_of(SFT, Path("recipes/tiny/stf.yaml"))
        == "recipes/tiny/stf.yaml does not exist; did you mean recipes/tiny/sft.yaml?"
    )
    assert error_of(SFT, Path("recipes/tiny")) == "recipes/tiny is a folder; name a recipe file in it"
    (tmp_path / "latin.yaml").write_bytes(b"run: {dir: caf\xe9}\n")
    assert error_of(SFT, tmp_path / "latin.yaml") == f"{tmp_path}/latin.yaml cannot be read (it is not UTF-8)"
