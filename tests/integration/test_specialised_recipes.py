"""The Code-Qwen and Math-Qwen recipes (report, 4 and 5): hyper-parameters, schedules, and short runs of each."""

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
# As stated in sections 4.1, 4.2 and 5.
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
def test_hyper_parameters_are_those_of_the_report(name):
    made = recipe(name, "data.train=x.jsonl")
    assert STATED[name].items() <= made.trainer.items()
    assert (made.data.max_length, made.chatml.mask, made.data.packing) == (LENGTH[name], MASK[name], True)
    per_step = made.trainer["per_device_train_batch_size"] * made.trainer["gradient_accumulation_steps"]
    assert per_step == (64 if name == PRETRAIN else 128)  # rows
    assert made.model.attention_dropout == (0.1 if name == MATH else 0.0)


def rates(name, steps, folder):
    """Return the learning rate of every step of a run of `steps` steps, as a share of the peak."""
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
    ("name", "steps", "warmup", "warmup_share"),
    [
        (PRETRAIN, 1000, 30, lambda share: share),
        (CODE, 1000, 30, lambda share: (1 - math.cos(math.pi * share)) / 2),
        (MATH, 2000, 1430, lambda share: share),
    ],
)
def test_the_learning_rate_warms_up_in_its_shape_and_stays_constant(name, steps, warmup, warmup_share, tmp_path):
    found = rates(name, steps, tmp_path)
    assert found[:warmup] == pytest.approx([warmup_share(step / warmup) for step in range(warmup)])
    assert found[warmup:] == [1.0] * (steps - warmup)


@pytest.fixture
def code(tmp_path):
    """Write this project's own source files as records of plain text; return the override."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("e*/**/*.py"))]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [f"data.train={tmp_path}/code.jsonl"]


def published(name, fields):
    if not DATA.exists():
        pytest.skip("../shared/data is absent")
    return [f"data.train={{path: {DATA / name}, take: 200}}", f"data.fields={fields}"]


def run(name, mini, folder, data):
    """Run three steps of a recipe on the tiny base, one row each; return the rows that were trained on."""
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


def test_code_pretraining_trains_on_every_token(mini, code, tmp_path):
    rows = run(PRETRAIN, mini, tmp_path / "run", code)
    assert max(len(row["input_ids"]) for row in rows) > LENGTH[PRETRAIN] // 2
    for row in rows:  # every token except the first of each sequence
        assert row["labels"].count(IGNORE) == len(row["seq_lengths"])


@pytest.mark.parametrize(
    ("name", "source", "fields"),
    [
        (CODE, "humaneval.jsonl.gz", "{canonical_solution: response}"),
        (MATH, "gsm8k_train.jsonl", "{question: prompt, answer: response}"),
    ],
)
def test_finetuning_trains_on_answers_only(name, source, fields, mini, tmp_path):
    """Each up to its end token."""
    rows = run(name, mini, tmp_path / "run", published(source, fields))
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
