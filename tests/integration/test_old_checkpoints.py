"""Resume a run of an earlier version: state as a list, an empty COMPLETE file, a recipe without a stage."""

import torch

from engine.run import checkpoints, training_state
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import same, unfinish, untimed, weights


def test_a_run_of_an_earlier_version_resumes_bit_for_bit(tmp_path, capsys):
    setting = make_setting(tmp_path)
    one, other = tmp_path / "one", tmp_path / "other"
    for run in (one, other):
        train(recipe_of(setting, f"run.dir={run}", "run.save_steps=1"))
    unfinish(other, 2)
    checkpoint = other / "checkpoint-2"
    state = torch.load(checkpoint / training_state.STATE)
    assert len(state) == 3
    torch.save(list(state.values()), checkpoint / training_state.STATE)
    (checkpoint / checkpoints.COMPLETE_FILE).write_text("")  # without its step
    for written in (other / "recipe.yaml", checkpoint / "recipe.yaml"):
        lines = written.read_text().splitlines(keepends=True)
        written.write_text("".join(line for line in lines if not line.startswith("stage:")))
    capsys.readouterr()
    train(recipe_of(setting, f"run.dir={other}", "run.save_steps=1"))
    assert f"{other}: continuing from checkpoint-2\n" in capsys.readouterr().out
    assert untimed(one) == untimed(other)
    for name in ("model", "value"):
        assert same(weights(one, name), weights(other, name))
