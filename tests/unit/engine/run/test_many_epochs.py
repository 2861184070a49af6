"""A run of many epochs is warned of before its first step."""

from types import SimpleNamespace

import pytest
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerState

from engine.run.console import Steps
from engine.run.trainer import RunCallback


def printed_at_start(capsys, rows, batch, parts, max_steps, epochs=3.0):
    """Return what a trainer with `batch` rows per step, in `parts` micro-batches, prints at its start."""
    lifecycle = SimpleNamespace()
    lifecycle.begin = lambda total, needs: setattr(lifecycle, "console", Steps("sft", total))
    loader = DataLoader(range(rows), batch_size=batch // parts)
    steps = max_steps if max_steps > 0 else round(epochs * rows / batch)
    args = SimpleNamespace(
        max_steps=max_steps, num_train_epochs=epochs, gradient_accumulation_steps=parts,
        logging_steps=1, eval_steps=None, save_steps=500,
    )  # fmt: skip
    state = TrainerState(max_steps=steps)
    throughput = SimpleNamespace(begin=lambda: None)
    callback = RunCallback(lifecycle, throughput, merges=True, patience=None, summary="{} steps an epoch".format)
    callback.on_train_begin(args, state, None, model=nn.Linear(2, 2), optimizer=None, train_dataloader=loader)
    summary, _, warning = capsys.readouterr().out.partition("\n")
    assert summary == f"{rows // batch} steps an epoch"
    return warning


@pytest.mark.parametrize("parts", [1, 4])
def test_max_steps_of_many_epochs_is_warned_of(capsys, parts):
    assert printed_at_start(capsys, rows=24, batch=8, parts=parts, max_steps=4000) == (
        "warning: 4,000 steps mean 1,333 epochs over the 24 rows of data.train; more than 10 are rarely of use, "
        "which is our choice of a limit; lower trainer.max_steps, or name more data\n"
    )
    assert printed_at_start(capsys, rows=24, batch=8, parts=parts, max_steps=30) == ""


def test_more_than_10_epochs_are_warned_of(capsys):
    expected = "warning: 33 steps mean 11 epochs over the 24 rows of data.train; more than 10 are rarely"
    assert printed_at_start(capsys, rows=24, batch=8, parts=1, max_steps=-1, epochs=11.0).startswith(expected)
    assert printed_at_start(capsys, rows=24, batch=8, parts=1, max_steps=-1, epochs=10.0) == ""
