"""SFT and reward runs of several processes are those of one: losses, metrics, weights, whatever divides by what."""

import shutil

import pytest

from tests.processes import run_stage
from tests.stage_runs import untimed
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("two"))


@pytest.mark.timeout(100)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_two_processes_are_one_and_one_or_four_can_end_what_they_began(setting, tmp_path, stage):
    one, two, recipe = alone(setting, stage), tmp_path / "2", setting / f"{stage}.yaml"
    assert [row["step"] for row in untimed(one) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    run_stage(stage, recipe, f"run.dir={two}", processes=2)
    assert_same_run(one, two)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert (two / "data.json").read_text() == (one / "data.json").read_text()
    unfinish(two, 4)
    for processes in (1, 4):
        run = tmp_path / str(processes)
        shutil.copytree(two, run)
        run_stage(stage, recipe, f"run.dir={run}", processes=processes)
        assert_same_run(one, run)
        assert [row["step"] for row in untimed(run) if "loss" in row] == [1, 2, 3, 4, 5, 6]
