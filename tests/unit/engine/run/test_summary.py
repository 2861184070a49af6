"""The summary before training: its arithmetic by hand, and every schedule of evaluation in words."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from config import load
from engine.run.summary import size, trainer_summary
from sft.recipe import SFT


def summary_of(folder, *overrides, **arguments):
    """Return the summary's lines by name, of 20 rows and 8 rows a step in a run of 6 steps, 3 of them an epoch."""
    recipe = load(SFT, folder / "sft.yaml", overrides)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1).requires_grad_(False))
    trainer = SimpleNamespace(
        args=TrainingArguments(str(folder / "out"), learning_rate=1e-4, lr_scheduler_type="cosine", **arguments),
        train_dataset=[None] * 20,
        state=SimpleNamespace(max_steps=6, eval_steps=5),
        model=model,
    )
    reports = {"train": {"kept": 90, "tokens": 1000}, "eval": {"kept": 10}}
    first, *lines = trainer_summary(trainer, 3, 8, recipe, reports).splitlines()
    assert first == f"{folder}/run, before the first step:"
    return {line[2:15].strip(): line[16:] for line in lines}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sft.yaml").write_text(
        f"stage: sft\nmodel: {{path: base}}\ndata: {{train: a.jsonl, max_length: 64}}\nrun: {{dir: {tmp_path}/run}}\n"
    )
    return tmp_path


def test_the_summary_by_hand(folder):
    """6 steps of 3 an epoch are 2 epochs. 9 of 13 weights are trained."""
    assert summary_of(folder, "lora.r=4") == {
        "data": "90 records in 20 packed rows of up to 64 tokens",
        "held out": "10 records, not evaluated",
        "steps": "6, which are 2 epochs of 3 steps; 8 rows a step",
        "learning rate": "0.0001, cosine",
        "weights": "9 of 13 trained (69.23%), LoRA of rank 4",
        "template": "ChatML, tools as hermes; system prompt of conversations without one: none (chatml.system)",
        "cost": "2,000 tokens; make plan with the same arguments estimates memory and hours",
    }


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("no", "not evaluated"), ("steps", "evaluated every 5 steps"), ("epoch", "evaluated every epoch")],
)
def test_the_schedule_of_evaluation_is_in_words(folder, strategy, words):
    assert summary_of(folder, eval_strategy=strategy)["held out"] == f"10 records, {words}"


def test_best_checkpoint_and_early_stopping_are_announced(folder):
    overrides = ["data.eval=0.1", "sft.keep_best=true", "sft.patience=3", "run.save_steps=5"]
    assert summary_of(folder, *overrides, eval_strategy="steps")["held out"] == (
        "10 records, evaluated every 5 steps, the best checkpoint is kept, the run ends after 3 without a better one"
    )


def test_a_run_with_fewer_steps_than_a_checkpoint_says_that_it_is_evaluated_once(folder):
    overrides = ["data.eval=0.1", "sft.keep_best=true", "run.save_steps=7"]
    assert summary_of(folder, *overrides, eval_strategy="steps")["held out"] == (
        "10 records, evaluated after the last step only, as run.save_steps=7, the best checkpoint is kept"
    )


def test_the_size_of_a_parameter_that_is_stored_otherwise():
    """DeepSpeed leaves an empty tensor with ds_numel; bitsandbytes packs two weights into a byte."""
    sharded = torch.nn.Parameter(torch.empty(0))
    sharded.ds_numel = 12
    packed = torch.nn.Parameter(torch.zeros(6, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=torch.Size((3, 4)))
    assert [size(parameter) for parameter in (sharded, packed, torch.nn.Parameter(torch.zeros(2, 6)))] == [12] * 3
