"""The glue to TRL's trainers: what only a GPU can do is refused before anything is read or written."""

import pytest

from config import load
from engine.errors import RunError
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
        "trainer.activation_offloading=true moves activations from a GPU to the CPU's memory, and there is no GPU; "
        "leave it out"
    )
    assert not (tmp_path / "run").exists()
