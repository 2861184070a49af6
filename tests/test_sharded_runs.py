"""SFT and reward runs whose processes share a model (FSDP2, DeepSpeed's ZeRO) are those of one that holds it whole."""

import shutil

import pytest

from tests.processes import run_stage
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish

# DeepSpeed compiles an operation of its own when it first runs.
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed needs g++")
SHARDED = ["fsdp2", pytest.param("zero2", marks=needs_compiler), pytest.param("zero3", marks=needs_compiler)]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("sharded"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("hardware", SHARDED)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_sharded_is_whole_and_goes_on(setting, tmp_path, stage, hardware):
    """Losses, clipped gradients, evaluation, the model that is left; and from a checkpoint in the second epoch."""
    recipe, run = setting / f"{stage}.yaml", tmp_path / "run"
    run_stage(stage, recipe, f"run.dir={run}", processes=2, hardware=hardware)
    assert_same_run(alone(setting, stage), run)
    unfinish(run, 4)
    run_stage(stage, recipe, f"run.dir={run}", processes=2, hardware=hardware)
    assert_same_run(alone(setting, stage), run)
