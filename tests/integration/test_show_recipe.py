"""The recipe of `make show`, made from any stage's recipe: data keys, tokenizer, data to compare with, errors."""

import dataclasses
import subprocess
import sys

import pytest

from config import RecipeError, load
from config.data import TrainingData
from config.inputs import model_origin
from eval.recipe import EvalData
from ppo.recipe import PPOData
from reward.annotation.recipe import Candidates, Prompts
from sft.recipe import Data as SFTData
from show.recipe import Data, Show, show_recipe, tokenizer_of
from show.records import read_records
from tests.support.paths import ROOT
from tiny.world import SIZES


def test_show_has_every_data_key_of_every_stage_with_the_same_default():
    ours = {field.name: field for field in dataclasses.fields(Data)}
    for theirs in (SFTData, TrainingData, PPOData, EvalData, Prompts, Candidates):
        for field in dataclasses.fields(theirs):
            assert field.name in ours, f"{theirs.__module__}: let show.recipe.Data inherit from it"
            if field.name not in ("train", "prompts", "candidates"):  # mandatory in their stage, never here
                assert field.default == ours[field.name].default, field.name
                assert field.default_factory == ours[field.name].default_factory, field.name


@pytest.mark.parametrize("stage", ["base", "sft", "pmp", "rm", "ppo", "eval"])
def test_before_training_the_tokenizer_is_that_of_the_tiny_world(stage, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / "world" / "init").mkdir(parents=True)
    name = {"base": "world/init", "sft": "base/model", "pmp": "base/model", "rm": "pmp/model"}.get(stage, "sft/model")
    found = model_origin(f"{tmp_path}/{name}", f"recipes/tiny/{stage}.yaml")
    assert found == f"{tmp_path}/world/init"
    for data in SIZES:
        (tmp_path / "world" / f"{data}.jsonl").touch()
    recipe = show_recipe(f"recipes/tiny/{stage}.yaml", [])
    assert recipe.model.path == f"{tmp_path}/world/init"
    against = [source.path for source in recipe.show.against or []]
    assert (f"{tmp_path}/world/prompts_heldout.jsonl" in against) == (stage != "eval")


def test_the_origin_of_a_model_of_shipped_recipes_is_its_hub_id():
    path = "recipes/qwen2.5-7b/ppo.yaml"
    assert model_origin("runs/qwen2.5-7b/sft/model", path) == "Qwen/Qwen2.5-7B"
    assert model_origin("runs/nobody/model", path) == "runs/nobody/model"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["show.row=5"], "unknown key show.row; did you mean show.rows?"),
        (["show.rows=-1"], "show.rows is -1; it must be at least 0"),
        (["show.key=pairz"],
         "show.key is pairz; it must be one of train, eval, prompts, heldout, pretrain, comparisons.NAME, texts.NAME"),
        (["show.key=prompts"], "no data to show; name some: data.prompts=FILE"),
        (["data.train=none.jsonl"],
         "data.train: none.jsonl does not exist; name a file or folder that does, or the id of one on the hub "
         "(owner/name)"),
        (["data.max_lenght=16"], "unknown key data.max_lenght; did you mean data.max_length?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_or_override_are_refused(tmp_path, overrides, message):
    (tmp_path / "train.jsonl").touch()
    path = tmp_path / "sft.yaml"
    path.write_text(
        f"stage: sft\nmodel: {{path: owner/name}}\ndata: {{train: {tmp_path}/train.jsonl}}\nrun: {{dir: runs/x}}\n"
    )
    with pytest.raises(RecipeError) as error:
        show_recipe(str(path), overrides)
    assert str(error.value) == message


def test_a_mistake_on_the_command_line_is_one_line():
    command = [sys.executable, "-m", "show", "recipes/tiny/sft.yaml", "show.rows=x"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (2, "error: show.rows is x; it must be a whole number\n")


def test_the_data_of_an_evaluation_without_subjects_can_be_shown(tmp_path):
    """The tokenizer is that of the reward model; sets of comparisons and texts are shown by their names."""
    path = tmp_path / "eval.yaml"
    path.write_text(
        "stage: eval\neval: {rewards: {rm: rm/model}}\n"
        "data: {comparisons: {hh: hh.jsonl}, texts: {web: [a.jsonl, b.jsonl]}}\nrun: {dir: out}\n"
    )
    recipe = load(Show, path, other_sections=True)
    assert tokenizer_of(recipe, str(path), ["show.rows=1"]) == "rm/model"
    assert {name: [source.path for source in named] for name, named in recipe.shown.items()} == {
        "comparisons.hh": ["hh.jsonl"], "texts.web": ["a.jsonl", "b.jsonl"],
    }  # fmt: skip
    one = load(Show, path, ["show.key=comparisons.hh"], other_sections=True)
    assert one.shown.keys() == {"comparisons.hh"}


def test_training_data_is_compared_with_the_prompts_of_an_evaluation(tmp_path):
    for name in ("train", "heldout", "instructed"):
        (tmp_path / f"{name}.jsonl").touch()
    (tmp_path / "eval.yaml").write_text(
        f"stage: eval\neval: {{subjects: {{a: x/y}}, obeys: 'a:b'}}\nrun: {{dir: out}}\n"
        f"data: {{prompts: {tmp_path}/heldout.jsonl, system_prompts: {tmp_path}/instructed.jsonl}}\n"
    )
    (tmp_path / "sft.yaml").write_text(
        f"stage: sft\nmodel: {{path: owner/name}}\ndata: {{train: {tmp_path}/train.jsonl}}\nrun: {{dir: runs/x}}\n"
    )
    against = show_recipe(str(tmp_path / "sft.yaml"), []).show.against
    assert [source.path for source in against] == [f"{tmp_path}/heldout.jsonl", f"{tmp_path}/instructed.jsonl"]


def test_the_kind_of_record_of_a_set_is_by_its_data_key():
    text, chat = {"text": "One two."}, {"prompt": "Hi", "response": "Yes."}
    pair = {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}
    for key, record in (("texts.web", text), ("comparisons.hh", pair), ("pretrain", text)):
        good, bad = read_records([("a:1", record), ("a:2", chat)], key, {})
        assert (good.content is None, bad.content is None) == (False, True), key


def test_a_recipe_without_a_tokenizer_is_an_error_that_names_model_path(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("stage: prompts\ndata: {prompts: a.jsonl}\nselect: {count: 1}\nrun: {dir: out}\n")
    with pytest.raises(RecipeError) as error:
        show_recipe(str(path), [])
    assert str(error.value) == "no tokenizer to show data with; name a model that has one: model.path=FOLDER"
