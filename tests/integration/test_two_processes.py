"""SFT and reward runs on several ranks equal those of one process, also when batches do not divide evenly."""

import shutil

import pytest

from tests.support.stage_runs import unfinish, untimed
from tests.support.uneven_setting import assert_same_run, make_setting, run_in_this_process, run_to_end


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    ("stage", "others"), [("sft", [(1, "zero2"), (4, "ddp")]), ("reward", [(1, "fsdp2"), (4, "zero3")])]
)
def test_a_run_on_two_ranks_equals_one_process_and_resumes_on_one_or_four(setting, tmp_path, stage, others):
    one, two = run_in_this_process(setting, stage), tmp_path / "2"
    assert [row["step"] for row in untimed(one) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    run_to_end(2, "ddp", setting, stage, two)
    assert_same_run(one, two)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert (two / "data.json").read_text() == (one / "data.json").read_text()
    unfinish(two, 4)
    for processes, hardware in others:
        run = tmp_path / hardware
        shutil.copytree(two, run)
        run_to_end(processes, hardware, setting, stage, run)
        assert_same_run(one, run)
        assert [row["step"] for row in untimed(run) if "loss" in row] == [1, 2, 3, 4, 5, 6]
