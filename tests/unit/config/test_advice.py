"""An override that an error message advises makes the recipe valid when typed in a shell."""

import shlex

import pytest

from config import RecipeError, load
from config.cli import rejoin_overrides
from config.data import source_text, sources
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT

TRAINED = "model: {path: gpt2}\ndata: {train: a/b}\nrun: {dir: x}\n"
YAML = {
    SFT: f"stage: sft\n{TRAINED}",
    Reward: f"stage: reward\n{TRAINED}",
    PPO: "stage: ppo\nmodel: {path: gpt2}\nreward: {path: gpt2}\ndata: {prompts: a/b, pretrain: a/b}\n"
    "ppo: {steps: 100}\nrun: {dir: x}\n",
}
MIN_LR, GALORE = "trainer.lr_scheduler_type=cosine_with_min_lr", "trainer.optim=galore_adamw"
KEEP_SYSTEM = "chatml.keep_system=true"
FOUR_BITS, FOUR_BITS_OF_PPO = "lora.load_in_4bit=true", "ppo.load_in_4bit=true"


@pytest.mark.parametrize(
    ("schema", "given", "advice", "filled_in"),
    [
        (SFT, MIN_LR, "trainer.lr_scheduler_kwargs={min_lr: VALUE}", "1e-6"),
        (Reward, f"{MIN_LR} trainer.lr_scheduler_kwargs={{num_cycles: 1}}",
         "trainer.lr_scheduler_kwargs={min_lr: VALUE}", "1e-6"),
        (SFT, "trainer.lr_scheduler_type=warmup_stable_decay",
         "trainer.lr_scheduler_kwargs={num_decay_steps: VALUE}", "10"),
        (SFT, GALORE, "trainer.optim_target_modules=[NAME, NAME]", "attn"),
        (SFT, "lora.target_modules=q_proj,v_proj", "lora.target_modules=[q_proj,v_proj]", ""),
        (SFT, KEEP_SYSTEM, "chatml.keep_system=false", ""),
        (SFT, KEEP_SYSTEM, "chatml.system", "chatml.system='Be kind.'"),
        (SFT, FOUR_BITS, "lora.load_in_4bit=false", ""),
        (SFT, f"{FOUR_BITS} lora.r=8", "lora.merge=false", ""),
        (PPO, FOUR_BITS_OF_PPO, "models=shared", ""),
        (PPO, FOUR_BITS_OF_PPO, "ppo.load_in_4bit=false", ""),
        (PPO, "ppo.kl_target=6 ppo.kl_horizon=5", "ppo.kl_horizon to 128", "ppo.kl_horizon=128"),
        (Reward, "model.attention=sdpa", "reward.share_prompts", "reward.share_prompts=false"),
        (SFT, "data.roles.model=bot", "assistant", "data.roles.model=assistant"),
        (SFT, "run.report_to=tensorbord", "tensorboard", "run.report_to=tensorboard"),
    ],
)  # fmt: skip
def test_the_advised_override_makes_the_recipe_valid(tmp_path, schema, given, advice, filled_in):
    file = tmp_path / "recipe.yaml"
    file.write_text(YAML[schema])
    with pytest.raises(RecipeError) as error:
        load(schema, file, rejoin_overrides(shlex.split(given)))
    assert advice in str(error.value)
    override = advice.replace("VALUE", filled_in).replace("NAME", filled_in) if "=" in advice else filled_in
    load(schema, file, rejoin_overrides(shlex.split(f"{given} {override}")))


def test_null_is_accepted_for_a_field_and_for_document_end(tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text(YAML[SFT])
    data = load(SFT, file, ["data.fields.prompt=null", "data.document_end=null"]).data
    assert (data.fields, data.document_end) == ({"prompt": None}, None)


@pytest.mark.parametrize("path", ["runs/x", "/a b/c", "a, b", "x: y", "a #b", "{x}", 'say "x"', "[x", "äö"])
def test_a_source_with_a_split_is_printed_as_yaml_that_reads_back_the_same(tmp_path, path):
    file = tmp_path / "sft.yaml"
    file.write_text(YAML[SFT])
    text = source_text(path, "test")
    (source,) = sources(load(SFT, file, [f"data.train={text}"]).data.train, "data.train")
    assert (source.path, source.split) == (path, "test")
    file.write_text(YAML[SFT].replace("a/b", text))
    assert load(SFT, file).data.train == {"path": path, "split": "test"}
    assert source_text("runs/x", "dev") == "{path: runs/x, split: dev}"
