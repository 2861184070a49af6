"""Code-Qwen and Math-Qwen (report, 4 and 5): their figures, their schedules, and each in miniature on the tiny base."""

import json
import math

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from chatml import IGNORE, control
from config import load
from engine.files.jsonl import read
from engine.models.tokenizer import load_tokenizer
from sft import train as stage
from sft.recipe import SFT
from tests.support.paths import DATA, ROOT

PRETRAIN, CODE, MATH = "code-qwen/pretrain", "code-qwen/sft", "math-qwen/sft"
ADAMW = {"adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8}
# What sections 4.1, 4.2 and 5 state.
STATED = {
    PRETRAIN: {"learning_rate": 3e-5, "warmup_steps": 0.03, **ADAMW},
    CODE: {"learning_rate": 1e-5, "warmup_steps": 0.03, **ADAMW},
    MATH: {"learning_rate": 2e-5, "max_steps": 50000, "warmup_steps": 1430, "weight_decay": 0.1, "max_grad_norm": 1.0}
    | ADAMW,
}
LENGTH, MASK = {PRETRAIN: 8192, CODE: 8192, MATH: 1024}, {PRETRAIN: "all", CODE: "assistant", MATH: "assistant"}


def recipe(name, *overrides):
    return load(SFT, f"recipes/{name}.yaml", overrides)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", STATED)
def test_figures_are_the_reports(name):
    made = recipe(name, "data.train=x.jsonl")
    assert STATED[name].items() <= made.trainer.items()
    assert (made.data.max_length, made.chatml.mask, made.data.packing) == (LENGTH[name], MASK[name], True)
    per_step = made.trainer["per_device_train_batch_size"] * made.trainer["gradient_accumulation_steps"]
    assert per_step == (64 if name == PRETRAIN else 128)  # rows
    assert made.model.attention_dropout == (0.1 if name == MATH else 0.0)


def rates(name, steps, folder):
    """The learning rate of every step of a run of `steps` steps, in shares of the peak."""
    settings = recipe(name, "data.train=x.jsonl").trainer
    keys = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
    arguments = TrainingArguments(folder, use_cpu=True, **{key: settings[key] for key in keys if key in settings})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(steps), steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )  # fmt: skip
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "steps", "warmup", "rise"),
    [
        (PRETRAIN, 1000, 30, lambda share: share),
        (CODE, 1000, 30, lambda share: (1 - math.cos(math.pi * share)) / 2),
        (MATH, 2000, 1430, lambda share: share),
    ],
)
def test_rises_in_its_shape_and_never_falls(name, steps, warmup, rise, tmp_path):
    found = rates(name, steps, tmp_path)
    assert found[:warmup] == pytest.approx([rise(step / warmup) for step in range(warmup)])
    assert found[warmup:] == [1.0] * (steps - warmup)


@pytest.fixture
def code(tmp_path):
    """Code text: this project's own files, one a record."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("e*/**/*.py"))]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [f"data.train={tmp_path}/code.jsonl"]


def real(name, fields):
    if not DATA.exists():
        pytest.skip("../shared/data is absent")
    return [f"data.train={{path: {DATA / name}, take: 200}}", f"data.fields={fields}"]


def run(name, mini, folder, data):
    """Three steps of a recipe on the tiny base, one row each: the rows that were trained on."""
    small = ["max_steps=3", "per_device_train_batch_size=1", "gradient_accumulation_steps=1", "logging_steps=1"]
    overrides = [f"model.path={mini}/base/model", f"run.dir={folder}", *(f"trainer.{item}" for item in small)]
    kept = {}
    with pytest.MonkeyPatch.context() as patch:
        rows = stage.conversation_rows
        patch.setattr(stage, "conversation_rows", lambda key, *rest: kept.setdefault(key, rows(key, *rest)))
        stage.train(recipe(name, *overrides, *data))
    report = json.loads((folder / "data.json").read_text())["train"]
    assert report["kept"] == report["read"]
    losses = [row["loss"] for row in read(folder / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert (folder / "model" / "model.safetensors").exists()
    assert max(len(row["input_ids"]) for row in kept["train"]) <= LENGTH[name]
    return kept["train"]


def test_code_pretraining_in_miniature(mini, code, tmp_path):
    rows = run(PRETRAIN, mini, tmp_path / "run", code)
    assert max(len(row["input_ids"]) for row in rows) > LENGTH[PRETRAIN] // 2
    for row in rows:  # every token, but for each piece's first
        assert row["labels"].count(IGNORE) == len(row["seq_lengths"])


@pytest.mark.parametrize(
    ("name", "source", "fields"),
    [
        (CODE, "humaneval.jsonl.gz", "{canonical_solution: response}"),
        (MATH, "gsm8k_train.jsonl", "{question: prompt, answer: response}"),
    ],
)
def test_finetuning_in_miniature(name, source, fields, mini, tmp_path):
    """Only answers are trained on, each to its end; what was asked is read."""
    rows = run(name, mini, tmp_path / "run", real(source, fields))
    tokenizer = load_tokenizer(str(mini / "base" / "model"))
    ids = control(tokenizer)
    for row in rows:
        answers = [label for label in row["labels"] if label != IGNORE]
        assert answers.count(ids.im_end) == len(row["seq_lengths"])
        assert ids.im_start not in answers
    first = tokenizer.decode([label for label in rows[0]["labels"] if label != IGNORE])
    asked = tokenizer.decode(rows[0]["input_ids"])
    assert "<|im_start|>user\n" in asked
    assert ("#### " if name == MATH else "return") in first
    assert ("#### " if name == MATH else "return") in asked
