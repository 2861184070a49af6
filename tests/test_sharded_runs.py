"""SFT and reward runs whose processes share a model (FSDP2, DeepSpeed's ZeRO) are those of one that holds it whole."""

import json
import shutil

import pytest

from engine.run.folder import RunError
from tests.processes import run_stage
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish

# DeepSpeed compiles an operation of its own when it first runs.
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed needs g++")
ZERO2, ZERO3 = (pytest.param(name, marks=needs_compiler) for name in ("zero2", "zero3"))
# As the recipes for large models have it.
CHECKPOINTED = "trainer.gradient_checkpointing=true"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("sharded"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("hardware", ["fsdp2", ZERO2, ZERO3])
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_sharded_is_whole_and_goes_on(setting, tmp_path, stage, hardware):
    """Losses, clipped gradients, evaluation, the model that is left; and from a checkpoint in the second epoch.

    FSDP2 goes on in another number of processes, ZeRO in the same.
    """
    command = [stage, setting / f"{stage}.yaml", CHECKPOINTED, f"run.dir={tmp_path}"]
    run_stage(*command, processes=2, hardware=hardware)
    expected = alone(setting, stage, CHECKPOINTED)
    assert_same_run(expected, tmp_path)
    unfinish(tmp_path, 4)
    run_stage(*command, processes={"sft": 1, "reward": 3}[stage] if hardware == "fsdp2" else 2, hardware=hardware)
    assert_same_run(expected, tmp_path)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("stage", "hardware"), [("sft", "fsdp2"), ("reward", "fsdp2"), pytest.param("sft", "zero2", marks=needs_compiler)]
)
def test_adapters_under_sharding(setting, tmp_path, stage, hardware):
    lora = ["lora.r=4", "trainer.learning_rate=1e-2"]
    run_stage(stage, setting / f"{stage}.yaml", *lora, f"run.dir={tmp_path}", processes=2, hardware=hardware)
    assert_same_run(alone(setting, stage, *lora), tmp_path)


@needs_compiler
@pytest.mark.timeout(100)
def test_adapters_are_refused_under_zero3(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "lora.r=4", f"run.dir={tmp_path}", processes=2, hardware="zero3")
    assert str(error.value) == "lora.r is 4, but ZeRO-3 takes no adapters here; use HARDWARE=fsdp2 or zero2"


@pytest.mark.timeout(100)
def test_a_checkpoint_of_another_sharding_is_refused(setting, tmp_path):
    command = ["sft", setting / "sft.yaml", f"run.dir={tmp_path}"]
    run_stage(*command, processes=2, hardware="fsdp2")
    unfinish(tmp_path, 4)
    with pytest.raises(RunError) as error:
        run_stage(*command, processes=2)
    assert str(error.value) == (
        f"{tmp_path}/checkpoint-4 was written with 2 processes under fsdp2 and cannot be continued with 2 processes, "
        "unsharded; use HARDWARE=fsdp2, or name another run.dir"
    )
    note = tmp_path / "checkpoint-4" / "processes.json"
    note.write_text(json.dumps({"kind": "zero3", "processes": 4}))
    with pytest.raises(RunError) as error:
        run_stage(*command, processes=1, hardware="fsdp2")
    assert str(error.value) == (
        f"{tmp_path}/checkpoint-4 was written with 4 processes under zero3 and cannot be continued with one process "
        "under fsdp2; use HARDWARE=zero3 and 4 processes, or name another run.dir"
    )
