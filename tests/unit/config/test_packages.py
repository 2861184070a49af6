"""Values that need a missing package, and unknown trackers or modules, are refused before torch is imported."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from config import RecipeError, load
from config.cli import from_command_line
from config.packages import check_packages, needed_packages
from config.sections import TRACKERS
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT

YAML = {
    SFT: "stage: sft\nmodel: {path: gpt2}\ndata: {train: a/b}\nrun: {dir: x}\n",
    Reward: "stage: reward\nmodel: {path: gpt2}\ndata: {train: a/b}\nrun: {dir: x}\n",
    PPO: "stage: ppo\nmodel: {path: gpt2}\nreward: {path: gpt2}\ndata: {prompts: a/b, pretrain: a/b}\n"
    "ppo: {steps: 100}\nrun: {dir: x}\n",
}
CASES = [
    (SFT, "run.report_to=[tensorboard]", "run.report_to", "tensorboard", "tensorboard"),
    (PPO, "run.report_to=wandb", "run.report_to", "wandb", "wandb"),
    (PPO, "run.report_to=[comet_ml]", "run.report_to", "comet_ml", "comet-ml"),
    (SFT, "trainer.optim=adamw_8bit", "trainer.optim", "adamw_8bit", "bitsandbytes"),
    (Reward, "trainer.optim=adamw_torch_8bit", "trainer.optim", "adamw_torch_8bit", "torchao"),
    (SFT, "trainer.use_liger_kernel=true", "trainer.use_liger_kernel", "true", "liger-kernel"),
    (SFT, "lora={r: 2, merge: false, load_in_4bit: true}", "lora.load_in_4bit", "true", "bitsandbytes"),
    (PPO, "sampling.engine=vllm", "sampling.engine", "vllm", "vllm"),
]


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes the recipe of a stage and returns its path."""

    def recipe(schema):
        path = tmp_path / "recipe.yaml"
        path.write_text(YAML[schema])
        return path

    return recipe


@pytest.mark.parametrize(("schema", "override", "key", "value", "package"), CASES)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    recipe, monkeypatch, schema, override, key, value, package
):
    loaded = load(schema, recipe(schema), [override])  # loading still works, so `make plan` does too
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(RecipeError) as error:
        check_packages(loaded)
    assert str(error.value) == (
        f"{key} is {value}, which needs a package that is not installed; install it with .venv/bin/pip install "
        f"{package}, or choose another value"
    )


@pytest.mark.parametrize(("schema", "override", "key", "value", "package"), CASES)
def test_an_installed_package_is_found_by_its_import_name(recipe, monkeypatch, schema, override, key, value, package):
    loaded, looked_for = load(schema, recipe(schema), [override]), []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: looked_for.append(module) or ModuleSpec(module, None, origin="here")
    )
    check_packages(loaded)
    assert looked_for == [package.replace("-", "_")]
    assert [needed for *_, needed in needed_packages(loaded)] == [package]


def test_a_missing_package_is_reported_before_missing_data(recipe, capsys):
    with pytest.raises(SystemExit) as exit_info:
        from_command_line(SFT, [str(recipe(SFT)), "trainer.optim=grokadamw", "data.train=nowhere.jsonl"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        "error: trainer.optim is grokadamw, which needs a package that is not installed; install it with "
        ".venv/bin/pip install grokadamw, or choose another value\n"
    )


def test_a_folder_with_the_name_of_the_package_does_not_count(recipe, tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # wandb writes such a folder where it runs
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="pip install wandb"):
        check_packages(load(SFT, recipe(SFT), ["run.report_to=wandb"]))


def test_default_recipes_need_no_optional_package(recipe):
    for schema in YAML:
        assert list(needed_packages(load(schema, recipe(schema)))) == []


def test_a_single_tracker_is_read_as_a_list(recipe):
    assert load(SFT, recipe(SFT), ["run.report_to=wandb"]).run.report_to == ["wandb"]
    file = recipe(SFT)
    file.write_text(file.read_text().replace("run: {dir: x}", "run: {dir: x, report_to: trackio}"))
    assert load(SFT, file).run.report_to == ["trackio"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "run.report_to=[wandb, tensorbord]",
            "run.report_to has tensorbord, which is not a tracker; use tensorboard, wandb, trackio, mlflow, "
            "comet_ml, clearml, dvclive, swanlab, or leave it out",
        ),
        (
            "lora.target_modules=q_proj,v_proj",
            "lora.target_modules is q_proj,v_proj, which peft reads as one name; list them: "
            "lora.target_modules=[q_proj,v_proj]",
        ),
    ],
)
def test_unknown_trackers_and_comma_separated_modules_are_refused(recipe, override, message):
    with pytest.raises(RecipeError) as error:
        load(SFT, recipe(SFT), [override])
    assert str(error.value) == message


@pytest.mark.parametrize(
    "modules", ["[q_proj, v_proj]", "[q_proj,v_proj]", "q_proj", "'.*[qv]_proj{1,2}'", "all-linear"]
)
def test_names_and_patterns_of_modules_are_accepted(recipe, modules):
    assert load(SFT, recipe(SFT), [f"lora.target_modules={modules}"]).lora.target_modules


def test_trackers_are_those_that_accelerate_and_transformers_support():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert TRACKERS.keys() == LOGGER_TYPE_TO_CLASS.keys() & INTEGRATION_TO_CALLBACK.keys()
