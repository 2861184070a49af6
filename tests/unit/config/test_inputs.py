"""A missing input of a stage is an error that names the command that makes it."""

import shutil
from pathlib import Path

import pytest

from config import RecipeError, load, missing_input
from config.cli import from_command_line
from config.inputs import check_inputs
from eval.recipe import Eval
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.paths import ROOT
from tiny.world import SIZES


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a project root with the recipes and without runs; the working directory is there."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINY", "runs/tiny")
    return tmp_path


def missing(schema, path: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check_inputs(load(schema, path, overrides), Path(path))
    return str(caught.value)


def test_following_the_advised_commands_runs_the_tiny_pipeline_in_order(project):
    """Start without runs and run each advised command, until every stage has its inputs."""
    stages = {"base": SFT, "sft": SFT, "pmp": Reward, "rm": Reward, "harmless": Reward, "ppo": PPO, "eval": Eval}
    errors = []

    def make(target: str) -> None:
        made = Path("runs/tiny") / target
        made.mkdir(parents=True)
        if target == "world":
            (made / "init").mkdir()
            for name in SIZES:
                (made / f"{name}.jsonl").touch()
        else:
            (made / "model").mkdir()

    for target, schema in stages.items():
        while True:
            try:
                check_inputs(load(schema, f"recipes/tiny/{target}.yaml"), Path(f"recipes/tiny/{target}.yaml"))
                break
            except RecipeError as error:
                errors.append(f"{target}: {error}")
                make(str(error).rpartition("make ")[2])
    assert errors == [
        "base: model.path: runs/tiny/world/init does not exist; make it with: make world",
        "sft: model.path: runs/tiny/base/model does not exist; make it with: make base",
        "rm: model.path: runs/tiny/pmp/model does not exist; make it with: make pmp",
        "ppo: model.path: runs/tiny/sft/model does not exist; make it with: make sft",
        "ppo: reward.mix.helpful.path: runs/tiny/rm/model does not exist; make it with: make rm",
        "ppo: reward.mix.harmless.path: runs/tiny/harmless/model does not exist; make it with: make harmless",
        "eval: eval.subjects.ppo: runs/tiny/ppo/model does not exist; make it with: make ppo",
    ]


def test_the_advised_command_contains_the_seed(project, monkeypatch):
    monkeypatch.setenv("TINY", "runs/tiny-3")
    assert missing(SFT, "recipes/tiny/sft.yaml") == (
        "model.path: runs/tiny-3/base/model does not exist; make it with: make base SEED=3"
    )
    assert missing(SFT, "recipes/tiny/base.yaml") == (
        "model.path: runs/tiny-3/world/init does not exist; make it with: make world SEED=3"
    )


def test_outside_the_tiny_world_the_advised_command_names_the_recipe(project):
    (project / "d.jsonl").touch()
    assert missing(Reward, "recipes/qwen2.5-7b/rm.yaml", "data.train=d.jsonl") == (
        "model.path: runs/qwen2.5-7b/pmp/model does not exist; "
        "make it with: make pmp RECIPE=recipes/qwen2.5-7b/pmp.yaml"
    )
    assert missing(SFT, "recipes/code-qwen/sft.yaml", "data.train=d.jsonl") == (
        "model.path: runs/code-qwen/pretrain/model does not exist; "
        "make it with: make base RECIPE=recipes/code-qwen/pretrain.yaml"
    )


def test_the_innermost_of_nested_run_folders_decides_the_advised_command(project):
    folder = project / "recipes" / "mine"
    folder.mkdir()
    for name, stage, run_dir in (
        ("sft", "sft", "runs/mine"), ("likes", "reward", "runs/mine/rm"), ("base", "sft", "runs"),
    ):  # fmt: skip
        (folder / f"{name}.yaml").write_text(f"stage: {stage}\nrun: {{dir: {run_dir}}}\n")
    recipe = Path("recipes/mine/ppo.yaml")
    for path, target, name in (
        ("runs/mine/rm/model", "rm", "likes"), ("runs/mine/model", "sft", "sft"), ("runs/model", "base", "base"),
    ):  # fmt: skip
        command = f"make {target} RECIPE=recipes/mine/{name}.yaml"
        assert missing_input(path, recipe) == f"{path} does not exist; make it with: {command}"


def test_the_command_repeats_the_variables_that_the_recipe_reads(project, monkeypatch):
    (project / "recipes/mine").mkdir()
    text = "stage: sft\nmodel: {path: '${oc.env:MODEL}'}\nrun: {dir: '${oc.env:RUNS,runs/mine}/sft'}\n"
    (project / "recipes/mine/sft.yaml").write_text(text)
    for given, runs, expected in (
        ({}, "runs/mine", "MODEL=FOLDER"),
        ({"MODEL": "owner/name", "RUNS": "elsewhere"}, "elsewhere", "MODEL=owner/name RUNS=elsewhere"),
    ):
        for name in ("MODEL", "RUNS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        line = missing_input(f"{runs}/sft/model", Path("recipes/mine/ppo.yaml"))
        assert line.endswith(f"make it with: make sft RECIPE=recipes/mine/sft.yaml {expected}")


def test_an_invalid_recipe_in_the_same_folder_is_ignored(project):
    (project / "recipes/tiny/ppo.yaml").write_text("stage: ppo\nrun: {dir: '${oc.env:PLUMB_NO}'}\n")
    (project / "recipes/tiny/pmp.yaml").write_text("a: [\n")
    assert missing(SFT, "recipes/tiny/sft.yaml").endswith("make it with: make base")


def test_an_input_that_no_recipe_makes_is_reported_without_a_command(project):
    (project / "model").mkdir()
    (project / "runs").mkdir()
    plain = "does not exist; name a file or folder that does, or the id of one on the hub (owner/name)"
    recipe = ("recipes/tiny/sft.yaml", "model.path=model")
    assert missing(SFT, *recipe, "data.train=my.jsonl") == f"data.train: my.jsonl {plain}"
    assert missing(SFT, *recipe, "data.train=*.jsonl") == f"data.train: *.jsonl {plain}"
    assert missing(SFT, *recipe, "data.train=[owner/name, no/such/file]") == f"data.train: no/such/file {plain}"
    assert missing(SFT, "recipes/tiny/sft.yaml", "model.path=runs/mine") == f"model.path: runs/mine {plain}"
    assert missing_input("a/b/c", Path("recipes/tiny/sft.yaml")) == f"a/b/c {plain}"


def test_a_tilde_is_refused_with_the_expanded_path(project, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    problem = "does not exist: ~ is not expanded in recipes; write /home/ada/base"
    assert missing(SFT, "recipes/tiny/sft.yaml", "model.path=~/base") == f"model.path: ~/base {problem}"
    for key in ("run.dir", "run.local_dir"):
        with pytest.raises(RecipeError) as error:
            load(SFT, "recipes/tiny/sft.yaml", [f"{key}=~/sft"])
        assert str(error.value) == f"{key}=~/sft: ~ is not expanded in recipes; write /home/ada/sft"


def test_hub_ids_files_and_globs_are_accepted(project):
    (project / "d.jsonl").touch()
    for model in ("Qwen/Qwen3-8B-Base", "gpt2"):
        for data in ("d.jsonl", "*.jsonl", ".", "owner/name", "owner/name:test", "{path: owner/name, split: test}"):
            recipe = load(SFT, "recipes/tiny/sft.yaml", [f"model.path={model}", f"data.train={data}"])
            check_inputs(recipe, Path("recipes/tiny/sft.yaml"))


def test_a_missing_input_exits_with_code_2(project, capsys):
    with pytest.raises(SystemExit) as exit_info:
        from_command_line(SFT, ["recipes/tiny/sft.yaml", "--check"])
    assert exit_info.value.code == 2
    line = "error: model.path: runs/tiny/base/model does not exist; make it with: make base\n"
    assert capsys.readouterr() == ("", line)
