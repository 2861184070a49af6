"""SFT and reward runs of several processes are those of one: losses, metrics, weights, whatever divides by what."""

import shutil

import pytest

from tests.support.stage_runs import unfinish, untimed
from tests.support.uneven_setting import alone, assert_same_run, make_setting, run_by


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    ("stage", "others"), [("sft", [(1, "zero2"), (4, "ddp")]), ("reward", [(1, "fsdp2"), (4, "zero3")])]
)
def test_two_processes_are_one_and_one_or_four_can_end_what_they_began(setting, tmp_path, stage, others):
    one, two = alone(setting, stage), tmp_path / "2"
    assert [row["step"] for row in untimed(one) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    run_by(2, "ddp", setting, stage, two)
    assert_same_run(one, two)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert (two / "data.json").read_text() == (one / "data.json").read_text()
    unfinish(two, 4)
    for processes, hardware in others:
        run = tmp_path / hardware
        shutil.copytree(two, run)
        run_by(processes, hardware, setting, stage, run)
        assert_same_run(one, run)
        assert [row["step"] for row in untimed(run) if "loss" in row] == [1, 2, 3, 4, 5, 6]
