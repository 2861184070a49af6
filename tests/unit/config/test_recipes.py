"""Recipes: every mistake a user can make with its exact line; stages; extends; overrides; sources."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from config import RecipeError, load, resolved_yaml
from config.data import Source, sources
from config.files import line_of
from config.schema import STAGES, Recipe, Section, whole_mapping
from config.sections import Run
from ppo.recipe import PPO
from sft.recipe import SFT
from tests.support.paths import ROOT

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


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TINY", "runs/tiny")


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe file; returns its path."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def message(schema: type[Recipe], path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(schema, path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("kl_coef=0.1", "unknown key kl_coef; did you mean ppo.kl_coef?"),
        ("ppo.top_p=0.9", "unknown key ppo.top_p; did you mean sampling.top_p?"),
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
            "path, split, name, revision, weight, skip, take, without_share, "
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
        ("ppo.steps=${oc.env:PLUMB_NO}", "ppo.steps cannot be resolved: Environment variable 'PLUMB_NO' not found"),
        ("ppo.steps=${ppo.no}", "ppo.steps cannot be resolved: Interpolation key 'ppo.no' not found"),
        (
            "model.path=${x",
            "model.path is ${x, which is not a valid interpolation; write \\${ for a literal ${",
        ),
    ],
)
def test_a_mistake_in_an_override_is_one_exact_line(recipe, override, expected):
    assert message(PPO, recipe(PPO_YAML), override) == expected


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
def test_a_mistake_in_a_file_names_file_and_line(recipe, text, expected):
    path = recipe(text if text.startswith(("-", "a: ")) else f"{text}stage: sft\n")
    assert message(SFT, path) == expected.replace("FILE", str(path)).replace("FOLDER", str(path.parent))


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
def test_the_stage_is_said_before_anything_else(recipe, text, overrides, expected):
    parent = recipe("stage: ppo\nzzz: 1\n", "parent.yaml")
    path = recipe(text)
    assert message(SFT, path, *overrides) == expected.replace("FILE", str(path)).replace("PARENT", str(parent))


def test_a_command_for_recipes_of_any_stage_needs_one_as_well(recipe):
    @dataclass(frozen=True)
    class AnyStage(Recipe):
        run: Run = field(default_factory=Run)

    path = recipe("run: {dir: a}\n")
    assert message(AnyStage, path) == (
        f'{path} has no stage; add one as its first line, for example "stage: sft" '
        "(sft, reward, ppo, eval, prompts, candidates, pairs)"
    )
    assert load(AnyStage, path, ["stage=pairs"]).stage == "pairs"


def test_the_stage_is_inherited_and_stands_first(recipe):
    recipe(PPO_YAML, "parent.yaml")
    got = load(PPO, recipe("run: {seed: 1}\nextends: parent.yaml\n"))
    assert (got.stage, got.run.seed) == ("ppo", 1)
    assert resolved_yaml(got).startswith("stage: ppo\nmodel:\n")


def test_other_sections_may_stand_beside_only_if_asked(recipe):
    @dataclass(frozen=True)
    class Part(Recipe):
        run: Run = field(default_factory=Run)

    path = recipe(PPO_YAML.replace("dir: out", "dir: out/${ppo.steps}"))
    assert message(Part, path) == f"{path}:2: unknown key model; the recipe has stage, run"
    got = load(Part, path, ["ppo.steps=5", "ppo.nothing.known=6"], other_sections=True)
    assert (got.run.dir, [field.name for field in fields(got)]) == ("out/5", ["stage", "run"])
    with pytest.raises(RecipeError, match=r"^unknown key zzz; the recipe has stage, run$"):
        load(Part, path, ["zzz=1"], other_sections=True)
    with pytest.raises(RecipeError, match=r":4: unknown key reward; the recipe has stage, run$"):
        load(Part, path, other_sections=("model", "data", "ppo"))
    assert load(Part, path, ["reward.x=1"], other_sections=("model", "reward", "data", "ppo")).run.dir == "out/100"


@dataclass(frozen=True)
class Named(Section):
    subjects: dict[str, Any] = whole_mapping()
    require: dict[str, Any] = whole_mapping()
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured(Recipe):
    eval: Named = field(default_factory=Named)


ENDPOINT = {"url": "http://h:1/v1", "model": "m"}
NAMED = "stage: eval\neval: {subjects: {a: A, b: B}, fields: {a: A, b: B}}\n"


@pytest.mark.parametrize(
    ("overrides", "subjects", "laid_over"),
    [
        ([], {"a": "A", "b": "B"}, {"a": "A", "b": "B"}),
        (["eval.X={c: C}"], {"c": "C"}, {"a": "A", "b": "B", "c": "C"}),
        (["eval={X: {c: C}}"], {"c": "C"}, {"a": "A", "b": "B", "c": "C"}),
        (["eval.X.c=C", "eval.X.a=D"], {"a": "D", "b": "B", "c": "C"}, {"a": "D", "b": "B", "c": "C"}),
        (["eval.X={c: C}", "eval.X.d={url: 'http://h:1/v1', model: m}"], {"c": "C", "d": ENDPOINT},
         {"a": "A", "b": "B", "c": "C", "d": ENDPOINT}),
        (["eval.X={}"], {}, {"a": "A", "b": "B"}),
    ],
)  # fmt: skip
def test_a_mapping_is_replaced_as_a_whole_where_its_field_says_so(recipe, overrides, subjects, laid_over):
    for name, expected in (("subjects", subjects), ("fields", laid_over)):
        got = load(Measured, recipe(NAMED), [override.replace("X", name) for override in overrides])
        assert getattr(got.eval, name) == expected
        assert list(getattr(got.eval, name)) == list(expected)  # insertion order is a table's order


def test_a_child_replaces_such_a_mapping_as_well(recipe):
    recipe(NAMED, "parent.yaml")
    got = load(Measured, recipe("extends: parent.yaml\neval: {subjects: {c: C}, fields: {c: C}}\n"))
    assert got.eval == Named(subjects={"c": "C"}, fields={"a": "A", "b": "B", "c": "C"})


def test_keys_with_dots_and_values_with_operators_survive(recipe):
    """As in a gate: a path in summary.json, and a condition."""
    gate = {"differences.ppo.answers.accuracy.mean": ">= -0.01", "subjects.ppo.answers.gold": "== 1", "a.b": "<5"}
    written = '{"differences.ppo.answers.accuracy.mean": ">= -0.01", subjects.ppo.answers.gold: "== 1", \'a.b\': "<5"}'
    path = recipe(NAMED)
    got = load(Measured, path, [f"eval.require={written}"])
    assert got.eval.require == gate
    again = recipe(resolved_yaml(got), "again.yaml")
    assert load(Measured, again) == got
    at = again.read_text().splitlines().index("    differences.ppo.answers.accuracy.mean: '>= -0.01'") + 1
    assert line_of(again, "eval.require.differences.ppo.answers.accuracy.mean") == at


def test_a_field_of_trl_is_pointed_to(recipe):
    path = recipe("stage: sft\nmodel: {path: m}\nrun: {dir: a}\ndata: {train: a}\n")
    assert message(SFT, path, "learning_rate=1e-4") == (
        "unknown key learning_rate; did you mean trainer.learning_rate?"
    )
    assert message(SFT, path, "max_length=9") == "unknown key max_length; did you mean data.max_length?"


def test_a_recipe_that_is_not_there_is_likened_to_those_that_are(tmp_path):
    assert (
        message(SFT, Path("recipes/tiny/stf.yaml"))
        == "recipes/tiny/stf.yaml does not exist; did you mean recipes/tiny/sft.yaml?"
    )
    assert message(SFT, Path("recipes/tiny")) == "recipes/tiny is a folder; name a recipe file in it"
    (tmp_path / "latin.yaml").write_bytes(b"run: {dir: caf\xe9}\n")
    assert message(SFT, tmp_path / "latin.yaml") == f"{tmp_path}/latin.yaml cannot be read (it is not UTF-8)"


def test_a_file_lies_over_its_parents_and_overrides_over_all(recipe):
    recipe(PPO_YAML + "  epochs: 3\n  lam: 0.9\n", "grandparent.yaml")
    recipe("extends: grandparent.yaml\nppo: {epochs: 5}\nreward: {path: [a, b]}\n", "parent.yaml")
    path = recipe("extends: parent.yaml\nreward: {path: [c]}\n")
    got = load(PPO, path, ["ppo.steps=60"])
    assert (got.ppo.epochs, got.ppo.lam, got.ppo.steps, got.reward.path) == (5, 0.9, 60, ["c"])
    assert got.ppo.value_clip == 0.15
    assert message(PPO, path, "data.pretrain=null", "ppo.pretrain_coef=0", "ppo.steps=40") == (
        "ppo.value_warmup_steps is 50, but the run has 40 steps; lower it, or raise ppo.steps"
    )


def test_a_mapping_field_is_laid_over_and_an_untyped_one_replaced(recipe):
    path = recipe(
        "stage: sft\nmodel: {path: m}\nrun: {dir: a}\n"
        "data: {train: {path: a, weight: 3}, fields: {question: prompt}}\ntrainer: {learning_rate: 1e-4}\n"
    )
    got = load(SFT, path, ["trainer.max_steps=5", "data.fields.answer=response", "data.train={path: b}"])
    assert got.trainer == {"learning_rate": 1e-4, "max_steps": 5}
    assert got.data.fields == {"question": "prompt", "answer": "response"}
    assert got.data.train == {"path": "b"}
    for left_out in ("data.fields={question: null}", "data.fields.question=null"):
        assert load(SFT, path, [left_out]).data.fields == {"question": None}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("01", "01"),
        ("4e12", "4e12"),
        ("a: b, c", "a: b, c"),
        ("[x", "[x"),
        ("yes", "yes"),
        ("'null'", "null"),
        ("null", None),
    ],
)
def test_a_text_override_is_taken_as_it_was_typed(recipe, written, expected):
    assert load(PPO, recipe(PPO_YAML), [f"chatml.system={written}"]).chatml.system == expected


def test_sources_come_as_text_mapping_or_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    value = ["my.jsonl", "owner/name:test", {"path": "owner/name", "name": "en", "weight": 2, "take": 9}]
    got = sources(value, "data.train")
    assert got == [
        Source("my.jsonl"),
        Source("owner/name", split="test"),
        Source("owner/name", name="en", weight=2.0, take=9),
    ]
    assert [source.on_hub for source in got] == [False, True, True]
    assert sources(None, "data.eval") == []
    # A file by its suffix; a path because its first folder is here; a path because it has too many parts.
    assert not any(Source(path).on_hub for path in ("owner/my.jsonl", "data/name", "a/b/c", "./a", "/a/b", "a/*"))
    assert sources("data/name:test", "data.train") == [Source("data/name:test")]


def test_a_resolved_recipe_keeps_text_that_looks_like_an_interpolation(recipe):
    got = load(PPO, recipe(PPO_YAML), ["chatml.system=\\${name}, 01"])
    assert got.chatml.system == "${name}, 01"
    assert load(PPO, recipe(resolved_yaml(got), "again.yaml")) == got
