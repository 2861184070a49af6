"""`make release` turns a checkpoint into a model folder, equal to the model of a run that ends at that step."""

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from config import load
from engine.errors import RunError
from ppo.train import train
from release.checkpoint import release
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.integration.test_sft import RECIPE, conversation
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.stage_runs import same, weights, write_base, write_jsonl


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def run(setting, tmp_path_factory):
    """Return the folder of a PPO run of three steps with all its checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    train(recipe_of(setting, f"run.dir={folder}", "run.save_steps=1", "run.keep_checkpoints=9"))
    return folder


def test_the_policy_of_any_checkpoint_is_released_as_a_model_folder(setting, run, tmp_path, capsys):
    train(recipe_of(setting, f"run.dir={tmp_path}/two", "ppo.steps=2"))
    release([str(run), str(tmp_path / "out"), "step=2"])
    assert capsys.readouterr().out.endswith(f"{tmp_path}/out: the model of {run}/checkpoint-2\n")
    assert same(weights(tmp_path, "out"), weights(tmp_path / "two"))
    release([str(run), str(tmp_path / "newest")])
    assert same(weights(tmp_path, "newest"), weights(run))

    names = {path.name for path in (run / "model").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"README.md"}
    for name in names - {"model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (run / "model" / name).read_bytes(), name
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<|im_end|>") in (
        model.generation_config.eos_token_id
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path}/out")' in card
    assert "its checkpoint after 2 steps, " in card
    assert " | 3 |" not in card.split("## Metrics")[1].split("## Recipe")[0]  # no metrics of later steps


def test_the_adapter_of_a_shared_base_is_released(setting, tmp_path):
    folder = setting.parent
    overrides = ["models=shared", *make_adapters(folder), f"run.dir={tmp_path}/run", "ppo.steps=1"]
    train(recipe_of(setting, *overrides))
    release([str(tmp_path / "run"), str(tmp_path / "out")])
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        one, other = (
            AutoPeftModelForCausalLM.from_pretrained(path)(prompt).logits
            for path in (tmp_path / "out", tmp_path / "run" / "model")
        )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "lora", [[], ["lora.r=2"], ["lora.r=2", "lora.merge=false"]], ids=["full", "merged", "adapter"]
)
def test_a_checkpoint_of_sft_is_released(tmp_path, lora):
    write_base(tmp_path / "base")
    write_jsonl(tmp_path / "train.jsonl", map(conversation, range(24)))
    (tmp_path / "sft.yaml").write_text(RECIPE.format(folder=tmp_path))
    train_sft(load(SFT, tmp_path / "sft.yaml", ["trainer.max_steps=2", *lora]))
    release([str(tmp_path / "run"), str(tmp_path / "out"), "step=2"])
    load_model = AutoModelForCausalLM if "lora.merge=false" not in lora else AutoPeftModelForCausalLM
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        one, other = (
            load_model.from_pretrained(path)(prompt).logits for path in (tmp_path / "out", tmp_path / "run" / "model")
        )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], 'a run folder, a new folder and optionally a step are needed: make release ARGS="RUN OUT step=40"'),
        (["RUN", "OUT", "step=x"],
         'a run folder, a new folder and optionally a step are needed: make release ARGS="RUN OUT step=40"'),
        (["OUT", "OUT"], "OUT is not a run folder; it has no recipe.yaml"),
        (["RUN", "RUN"], "RUN already exists; name a new folder"),
        (["RUN", "OUT", "step=7"],
         "RUN has no checkpoint of step 7; it has those of 1, 2, 3 (run.keep_checkpoints and run.save_steps decide "
         "which are kept)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(run, tmp_path, arguments, message):
    def named(text):
        return text.replace("RUN OUT", "R O").replace("RUN", str(run)).replace("OUT", f"{tmp_path}/out").replace(
            "R O", "RUN OUT"
        )  # fmt: skip

    with pytest.raises(RunError) as error:
        release([named(argument) for argument in arguments])
    assert str(error.value) == named(message)
    assert not (tmp_path / "out").exists()
