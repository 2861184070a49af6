"""How a recipe is made of its parents, its file and overrides; stages, mappings and sources."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from config import RecipeError, load, resolved_yaml
from config.data import Source, sources
from config.files import line_of
from config.schema import Recipe, Section, whole_mapping
from config.sections import Run
from ppo.recipe import PPO
from sft.recipe import SFT
from tests.support.recipe_setting import PPO_YAML, error_of

pytestmark = pytest.mark.usefixtures("at_root")


def test_the_stage_is_inherited_and_written_first(write_recipe):
    write_recipe(PPO_YAML, "parent.yaml")
    got = load(PPO, write_recipe("run: {seed: 1}\nextends: parent.yaml\n"))
    assert (got.stage, got.run.seed) == ("ppo", 1)
    assert resolved_yaml(got).startswith("stage: ppo\nmodel:\n")


def test_unknown_sections_are_accepted_only_with_other_sections(write_recipe):
    @dataclass(frozen=True)
    class RunOnly(Recipe):
        run: Run = field(default_factory=Run)

    path = write_recipe(PPO_YAML.replace("dir: out", "dir: out/${ppo.steps}"))
    assert error_of(RunOnly, path) == f"{path}:2: unknown key model; the recipe has stage, run"
    got = load(RunOnly, path, ["ppo.steps=5", "ppo.nothing.known=6"], other_sections=True)
    assert (got.run.dir, [field.name for field in fields(got)]) == ("out/5", ["stage", "run"])
    with pytest.raises(RecipeError, match=r"^unknown key zzz; the recipe has stage, run$"):
        load(RunOnly, path, ["zzz=1"], other_sections=True)
    with pytest.raises(RecipeError, match=r":4: unknown key reward; the recipe has stage, run$"):
        load(RunOnly, path, other_sections=("model", "data", "ppo"))
    assert load(RunOnly, path, ["reward.x=1"], other_sections=("model", "reward", "data", "ppo")).run.dir == "out/100"


@dataclass(frozen=True)
class EvalSection(Section):
    subjects: dict[str, Any] = whole_mapping()
    require: dict[str, Any] = whole_mapping()
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalRecipe(Recipe):
    eval: EvalSection = field(default_factory=EvalSection)


ENDPOINT = {"url": "http://h:1/v1", "model": "m"}
EVAL_YAML = "stage: eval\neval: {subjects: {a: A, b: B}, fields: {a: A, b: B}}\n"


@pytest.mark.parametrize(
    ("overrides", "subjects", "merged"),
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
def test_a_whole_mapping_field_is_replaced_and_other_mappings_are_merged(write_recipe, overrides, subjects, merged):
    for name, expected in (("subjects", subjects), ("fields", merged)):
        got = load(EvalRecipe, write_recipe(EVAL_YAML), [override.replace("X", name) for override in overrides])
        assert getattr(got.eval, name) == expected
        assert list(getattr(got.eval, name)) == list(expected)  # the order in tables


def test_a_child_recipe_replaces_a_whole_mapping_too(write_recipe):
    write_recipe(EVAL_YAML, "parent.yaml")
    got = load(EvalRecipe, write_recipe("extends: parent.yaml\neval: {subjects: {c: C}, fields: {c: C}}\n"))
    assert got.eval == EvalSection(subjects={"c": "C"}, fields={"a": "A", "b": "B", "c": "C"})


def test_keys_with_dots_and_values_with_operators_are_kept(write_recipe):
    """A gate (`eval.require`) maps paths in summary.json to conditions."""
    gate = {"differences.ppo.answers.accuracy.mean": ">= -0.01", "subjects.ppo.answers.gold": "== 1", "a.b": "<5"}
    written = '{"differences.ppo.answers.accuracy.mean": ">= -0.01", subjects.ppo.answers.gold: "== 1", \'a.b\': "<5"}'
    path = write_recipe(EVAL_YAML)
    got = load(EvalRecipe, path, [f"eval.require={written}"])
    assert got.eval.require == gate
    again = write_recipe(resolved_yaml(got), "again.yaml")
    assert load(EvalRecipe, again) == got
    at = again.read_text().splitlines().index("    differences.ppo.answers.accuracy.mean: '>= -0.01'") + 1
    assert line_of(again, "eval.require.differences.ppo.answers.accuracy.mean") == at


def test_a_file_overrides_its_parents_and_the_command_line_overrides_all(write_recipe):
    write_recipe(PPO_YAML + "  epochs: 3\n  lam: 0.9\n", "grandparent.yaml")
    write_recipe("extends: grandparent.yaml\nppo: {epochs: 5}\nreward: {path: [a, b]}\n", "parent.yaml")
    path = write_recipe("extends: parent.yaml\nreward: {path: [c]}\n")
    got = load(PPO, path, ["ppo.steps=60"])
    assert (got.ppo.epochs, got.ppo.lam, got.ppo.steps, got.reward.path) == (5, 0.9, 60, ["c"])
    assert got.ppo.value_clip == 0.15
    assert error_of(PPO, path, "data.pretrain=null", "ppo.pretrain_coef=0", "ppo.steps=40") == (
        "ppo.value_warmup_steps is 50, but the run has 40 steps; lower it, or raise ppo.steps"
    )


def test_a_mapping_field_is_merged_and_an_untyped_field_replaced(write_recipe):
    path = write_recipe(
        "stage: sft\nmodel: {path: m}\nrun: {dir: a}\n"
        "data: {train: {path: a, weight: 3}, fields: {question: prompt}}\ntrainer: {learning_rate: 1e-4}\n"
    )
    got = load(SFT, path, ["trainer.max_steps=5", "data.fields.answer=response", "data.train={path: b}"])
    assert got.trainer == {"learning_rate": 1e-4, "max_steps": 5}
    assert got.data.fields == {"question": "prompt", "answer": "response"}
    assert got.data.train == {"path": "b"}
    for override in ("data.fields={question: null}", "data.fields.question=null"):
        assert load(SFT, path, [override]).data.fields == {"question": None}


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
def test_a_text_override_is_used_as_typed(write_recipe, written, expected):
    assert load(PPO, write_recipe(PPO_YAML), [f"chatml.system={written}"]).chatml.system == expected


def test_sources_may_be_text_a_mapping_or_a_list(tmp_path, monkeypatch):
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
    # Not hub ids: a file suffix, an existing first folder, too many parts, a leading dot or slash, a glob.
    assert not any(Source(path).on_hub for path in ("owner/my.jsonl", "data/name", "a/b/c", "./a", "/a/b", "a/*"))
    assert sources("data/name:test", "data.train") == [Source("data/name:test")]


def test_a_resolved_recipe_keeps_text_that_looks_like_an_interpolation(write_recipe):
    got = load(PPO, write_recipe(PPO_YAML), ["chatml.system=\\${name}, 01"])
    assert got.chatml.system == "${name}, 01"
    assert load(PPO, write_recipe(resolved_yaml(got), "again.yaml")) == got
