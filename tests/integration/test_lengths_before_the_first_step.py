"""Rows longer than the model's positions are reported before the first step; a sliding window is not a limit."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import reward.train
import sft.train
from chatml import encode
from config import load
from engine.errors import RunError
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.stage_runs import untimed, write_base, write_jsonl
from tests.support.tokenizers import qwen

RECIPE = """
stage: {stage}
model: {{path: {folder}/base}}
data: {{train: {folder}/train.jsonl, max_length: 64, too_long: cut_left}}
run: {{dir: {folder}/run}}
trainer: {{per_device_train_batch_size: 2, max_steps: 1, logging_steps: 1, gradient_checkpointing: false}}
"""
LONG = " ".join(["the quick brown fox"] * 3)


def loaded(schema, folder, *overrides):
    stage = schema.STAGE
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, stage=stage))
    return load(schema, folder / "recipe.yaml", list(overrides))


def write_gpt2(folder):
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(qwen()), "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)).save_pretrained(folder)
    qwen().save_pretrained(folder)


@pytest.mark.parametrize(
    ("schema", "stage", "record", "what"),
    [
        (SFT, sft.train, {"prompt": LONG, "response": "Hello"}, "record"),
        (SFT, sft.train, {"text": LONG * 3}, "record"),
        (Reward, reward.train, {"prompt": LONG, "chosen": "Hello", "rejected": "a"}, "comparison"),
    ],
)
def test_rows_beyond_learned_positions_stop_the_run_and_the_advice_works(tmp_path, schema, stage, record, what):
    write_gpt2(tmp_path / "base")
    write_jsonl(tmp_path / "train.jsonl", [record, {**record, "system": "Be kind."}])
    with pytest.raises(RunError) as error:
        stage.train(loaded(schema, tmp_path))
    message, _, advice = str(error.value).rpartition("; set ")
    assert message.startswith(f"the longest {what} of data.train has ")
    assert message.endswith(" tokens, and the model has positions for 32")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    stage.train(loaded(schema, tmp_path, advice, f"run.dir={tmp_path}/again"))
    assert (tmp_path / "again" / "finished.json").exists()


def test_the_loss_on_records_longer_than_a_sliding_window_equals_transformers(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}
    write_base(tmp_path / "base", **window)
    talks = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}] for text in (LONG, "Hello!")]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": talk} for talk in talks])
    sft.train.train(loaded(SFT, tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    losses_of_each = []
    for talk in talks:
        row = encode(talk, tokenizer)
        with torch.no_grad():
            logits = model(torch.tensor([row.input_ids])).logits[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(row.labels[1:]), reduction="none", ignore_index=-100)
        losses_of_each.append(losses[torch.tensor(row.labels[1:]) != -100])
    (loss,) = [row["loss"] for row in untimed(tmp_path / "run") if "loss" in row]
    assert_close(loss, torch.cat(losses_of_each).mean().item(), atol=1e-4, rtol=1e-4)
