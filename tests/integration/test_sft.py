"""SFT runs: the loss compared with plain cross-entropy, invariances, LoRA, resume."""

import shutil
import subprocess

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.checkpoint import FileSystemReader
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatml import control, encode
from config import load
from engine.errors import RunError
from sft.recipe import SFT
from sft.train import train
from tests.support.stage_runs import (
    command,
    has_gradient,
    run_and_kill,
    same,
    unfinish,
    untimed,
    weights,
    write_base,
    write_jsonl,
)

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "are", "you", "today"]
RECIPE = """
stage: sft
model: {{path: {folder}/base}}
data: {{train: {folder}/train.jsonl, max_length: 64}}
run: {{dir: {folder}/run, save_steps: 2}}
trainer: {{per_device_train_batch_size: 8, max_steps: 4, learning_rate: 1.0e-3, logging_steps: 1,
          gradient_checkpointing: false, lr_scheduler_type: constant}}
"""


def conversation(n):
    asked, answered = " ".join(WORDS[n % 5 : n % 5 + 3]), " ".join(WORDS[n % 7 : n % 7 + 2 + n % 4])
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Write a base, 32 conversations and a recipe; return their folder."""
    folder = tmp_path_factory.mktemp("sft")
    write_base(folder / "base")
    write_jsonl(folder / "train.jsonl", map(conversation, range(32)))
    (folder / "sft.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def run(setting, run_dir, *overrides):
    train(load(SFT, setting / "sft.yaml", [f"run.dir={run_dir}", *overrides]))
    return untimed(run_dir)


def losses(rows):
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
@pytest.mark.parametrize("attention", ["packed", "sdpa", "eager"])
def test_loss_is_plain_cross_entropy_over_trained_tokens(setting, tmp_path, mask, attention):
    rows = run(
        setting, tmp_path, "trainer.max_steps=1", "trainer.per_device_train_batch_size=32", f"chatml.mask={mask}",
        f"model.attention={attention}",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(setting / "base", attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(setting / "base")
    per_token = []
    for n in range(32):
        encoded = encode(conversation(n)["messages"], tokenizer, mask=mask)
        with torch.no_grad():
            logits = model(torch.tensor([encoded.input_ids])).logits[0, :-1]
        per_token.append(F.cross_entropy(logits, torch.tensor(encoded.labels[1:]), reduction="none", ignore_index=-100))
    trained = torch.cat([loss[loss != 0] for loss in per_token])
    assert losses(rows)[0] == pytest.approx(trained.mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        ["data.packing=false", "trainer.per_device_train_batch_size=32"],
        ["trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=64"],
        ["trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=32"],
    ],
    ids=["unpacked", "one row at a time", "checkpointed"],
)
def test_loss_gradient_and_weights_do_not_depend_on_batching(setting, tmp_path, change):
    """All rows are in one step, so that every way of batching sees the same rows."""
    plain = run(setting, tmp_path / "plain", "trainer.max_steps=1", "trainer.per_device_train_batch_size=32")
    other = run(setting, tmp_path / "other", "trainer.max_steps=1", *change)
    for key in ("loss", "grad_norm"):
        assert other[0][key] == pytest.approx(plain[0][key], abs=1e-4)
    for (name, one), two in zip(weights(tmp_path / "plain").items(), weights(tmp_path / "other").values(), strict=True):
        if has_gradient(name):
            assert_close(one, two, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_on_plain_text_learns(setting, tmp_path):
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": " ".join(WORDS[n : n + 6])} for n in range(8)])
    rows = run(setting, tmp_path / "run", f"data.train={texts}", "chatml.mask=all", "trainer.max_steps=30")
    assert losses(rows)[-1] < 0.7 * losses(rows)[0]


def test_the_files_of_a_finished_run(setting, tmp_path):
    rows = run(setting, tmp_path, "data.eval=" + str(setting / "train.jsonl"), "trainer.eval_strategy=steps",
               "trainer.eval_steps=2")  # fmt: skip
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    evaluated = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert evaluated.keys() == {2, 4}
    assert evaluated[4] < evaluated[2]
    left = {path.name for path in tmp_path.iterdir()}
    assert {"recipe.yaml", "environment.json", "data.json", "metrics.jsonl", "model", "finished.json"} <= left
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert all((path / "COMPLETE").exists() for path in tmp_path.glob("checkpoint-*"))
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4").state_dict()
    assert all(torch.equal(last[name], weight) for name, weight in weights(tmp_path).items())
    by_name = FileSystemReader(tmp_path / "checkpoint-4" / "by_name").read_metadata().state_dict_metadata
    assert {name.partition(".")[0] for name in by_name} == {"optimizer"}  # weights are written once
    model, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = control(tokenizer)
    assert model.generation_config.eos_token_id == [ids.im_end, ids.endoftext]
    assert model.config.eos_token_id == tokenizer.eos_token_id == ids.im_end
    assert model.config.use_cache
    prompt = tokenizer.apply_chat_template(conversation(0)["messages"][:1], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("lora", [0, 4])
def test_other_families_train_and_load(tmp_path, family, lora):
    """Llama has no ChatML tokens; they are added, trained and saved."""
    write_base(tmp_path / "base", family, tie_word_embeddings=family == "llama")
    write_jsonl(tmp_path / "train.jsonl", map(conversation, range(16)))
    (tmp_path / "sft.yaml").write_text(RECIPE.format(folder=tmp_path))
    rows = run(tmp_path, tmp_path / "run", f"lora.r={lora}", "trainer.max_steps=12", "trainer.learning_rate=1e-2")
    assert losses(rows)[-1] < losses(rows)[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.generation_config.eos_token_id[0] == control(tokenizer).im_end


def test_an_unmerged_adapter_is_merged_by_make_merge(setting, tmp_path):
    run(setting, tmp_path / "run", "lora.r=4", "lora.merge=false", "lora.target_modules=[q_proj, v_proj]")
    adapter, out = tmp_path / "run" / "model", tmp_path / "merged"
    assert (adapter / "adapter_config.json").exists()
    merge = [*command("release.merge", adapter), str(out)]
    assert subprocess.run(merge, check=True, capture_output=True, text=True).stdout == f"{out}: merged\n"
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        one, two = (AutoModelForCausalLM.from_pretrained(path).eval()(ids).logits for path in (adapter, out))
    assert_close(one, two, atol=1e-5, rtol=1e-5)
    refused = subprocess.run(merge, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, f"error: {out} already exists; name a new folder\n")
    with pytest.raises(RunError) as error:
        run(setting, tmp_path / "second", f"model.path={adapter}", "lora.r=4", "lora.merge=false")
    assert str(error.value) == (
        f"lora.merge=false would save an adapter of {setting / 'base'} and lose model.path={adapter}, which is "
        f'itself an adapter of it; set lora.merge=true, or merge it first: make merge ARGS="{adapter} OUT"'
    )


@pytest.mark.parametrize("lora", [0, 4])
def test_a_killed_run_resumes_and_ends_bit_for_bit(setting, tmp_path, lora):
    long = ["trainer.max_steps=8", f"lora.r={lora}", "model.attention_dropout=0.1", "run.save_steps=3"]
    expected = run(setting, tmp_path / "whole", *long)
    killed = tmp_path / "killed"
    run_and_kill(4, "sft", setting / "sft.yaml", f"run.dir={killed}", *long)
    assert not (killed / "finished.json").exists()
    again = run(setting, killed, *long)
    assert again[:8] == expected[:8]
    assert same(weights(killed), weights(tmp_path / "whole"))


def test_a_mixture_of_experts_resumes_bit_for_bit(tmp_path):
    """The weights of experts have other names in files than in the model; a load that missed them would leave noise."""
    write_base(tmp_path / "base", "qwen3_moe")
    write_jsonl(tmp_path / "train.jsonl", map(conversation, range(16)))
    (tmp_path / "sft.yaml").write_text(RECIPE.format(folder=tmp_path))
    run(tmp_path, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    unfinish(tmp_path / "again", 2)
    run(tmp_path, tmp_path / "again")
    assert same(weights(tmp_path / "again"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_stops_the_run(setting, tmp_path):
    from engine.errors import RunError

    with pytest.raises(RunError, match=r"is (nan|inf) at step \d+; lower trainer.learning_rate or check the data"):
        run(setting, tmp_path, "trainer.learning_rate=1e30", "trainer.max_steps=8", "trainer.max_grad_norm=1e30")


def test_keeping_fewer_than_half_of_the_records_is_an_error(setting, tmp_path):
    wrong = subprocess.run(
        command("sft", setting / "sft.yaml", f"run.dir={tmp_path}", "data.max_length=16"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: data.train: only ")
    assert wrong.stderr.count("\n") == 1
