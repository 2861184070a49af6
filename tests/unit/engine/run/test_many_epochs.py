"""A run of many epochs says so before its first step."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from engine.run.console import Steps
from engine.run.trainer import RunCallback


def told(capsys, rows, batch, parts, max_steps, epochs=3.0):
    """What a trainer prints at its start that takes `batch` rows a step in `parts` forward passes."""
    lifecycle = SimpleNamespace()
    lifecycle.begin = lambda total: setattr(lifecycle, "console", Steps("sft", total))
    loader = DataLoader(range(rows), batch_size=batch // parts)
    steps = max_steps if max_steps > 0 else round(epochs * rows / batch)
    args = SimpleNamespace(max_steps=max_steps, num_train_epochs=epochs, gradient_accumulation_steps=parts)
    state = SimpleNamespace(max_steps=steps, best_global_step=None)
    callback = RunCallback(lifecycle, SimpleNamespace(begin=lambda: None))
    callback.on_train_begin(args, state, None, train_dataloader=loader, model=None)
    return capsys.readouterr().out


@pytest.mark.parametrize("parts", [1, 4])
def test_steps_of_many_epochs(capsys, parts):
    assert told(capsys, rows=24, batch=8, parts=parts, max_steps=4000) == (
        "warning: 4,000 steps mean 1,333 epochs over the 24 rows of data.train; lower trainer.max_steps, or name more "
        "data\n"
    )
    assert told(capsys, rows=24, batch=8, parts=parts, max_steps=30) == ""


def test_epochs_that_are_asked_for(capsys):
    expected = "warning: 33 steps mean 11 epochs over the 24 rows of data.train; lower trainer.num_train_epochs, "
    assert told(capsys, rows=24, batch=8, parts=1, max_steps=-1, epochs=11.0).startswith(expected)
    assert told(capsys, rows=24, batch=8, parts=1, max_steps=-1, epochs=10.0) == ""
