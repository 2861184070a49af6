"""The adapter to TRL's trainers: settings that need a GPU, and warnings that are hidden."""

import logging
from types import SimpleNamespace

import pytest
from transformers.trainer_utils import compare_trainer_and_checkpoint_args

from config import load
from engine.errors import RunError
from engine.run.trainer import is_shown
from sft.recipe import SFT
from sft.train import train


def test_offloading_activations_without_a_gpu_is_refused_before_the_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "sft.yaml").write_text(
        f"stage: sft\nmodel: {{path: x}}\ndata: {{train: x.jsonl}}\nrun: {{dir: {tmp_path}/run}}\n"
        "trainer: {activation_offloading: true}\n"
    )
    with pytest.raises(RunError) as error:
        train(load(SFT, tmp_path / "sft.yaml"))
    assert str(error.value) == (
        "trainer.activation_offloading=true moves activations from a GPU to CPU memory, and there is no GPU; "
        "leave it out"
    )
    assert not (tmp_path / "run").exists()


def test_transformers_warning_about_keys_that_may_change_is_not_shown(monkeypatch):
    logger, records = logging.getLogger("transformers.trainer_utils"), []
    monkeypatch.setattr(logger, "handle", records.append)
    now = SimpleNamespace(logging_steps=3, eval_steps=1, save_steps=1, per_device_train_batch_size=8, n_gpu=1)
    then = SimpleNamespace(logging_steps=1, eval_steps=1, save_steps=2, train_batch_size=8)
    compare_trainer_and_checkpoint_args(now, then)
    assert [is_shown(record) for record in records] == [False]
    assert is_shown(logging.LogRecord("x", logging.WARNING, "x", 1, "something else", (), None))
