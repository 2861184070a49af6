"""SFT and reward runs of several processes are those of one: losses, metrics, weights, whatever divides by what."""

import shutil

import pytest

from engine.run.metrics import read
from tests.processes import run_stage
from tests.stage_runs import untimed
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("two"))


@pytest.mark.timeout(100)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_two_and_three_processes_are_one(setting, tmp_path, stage):
    one = alone(setting, stage)
    assert [row["step"] for row in untimed(one) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    for processes in (2, 3):
        run = tmp_path / str(processes)
        run_stage(stage, setting / f"{stage}.yaml", f"run.dir={run}", processes=processes)
        assert_same_run(one, run)
        assert {path.name for path in run.iterdir()} == {path.name for path in one.iterdir()}
    assert (run / "data.json").read_text() == (one / "data.json").read_text()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_what_two_processes_began_one_and_four_end(setting, tmp_path, stage):
    begun, recipe = tmp_path / "begun", setting / f"{stage}.yaml"
    run_stage(stage, recipe, f"run.dir={begun}", processes=2)
    unfinish(begun, 4)
    for processes in (1, 4):
        run = tmp_path / str(processes)
        shutil.copytree(begun, run)
        run_stage(stage, recipe, f"run.dir={run}", processes=processes)
        assert_same_run(alone(setting, stage), run)
        assert [row["step"] for row in read(run / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4, 5, 6]
