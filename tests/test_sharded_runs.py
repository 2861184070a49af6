"""SFT and reward runs whose processes share a model (FSDP2, DeepSpeed's ZeRO) are those of one that holds it whole."""

import pytest
import torch
from accelerate import Accelerator

from engine.models.loading import load_causal
from engine.models.sharded import share_out
from engine.models.tokenizer import load_tokenizer
from engine.run import sharding
from engine.run.folder import RunError
from engine.run.sharding import Sharding
from recipes.sections import Model
from tests.processes import run_stage, together
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("sharded"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("stage", "hardware", "ended_by"),
    [
        ("sft", "fsdp2", 1),
        ("reward", "fsdp2", 3),
        ("sft", "zero2", 2),
        ("sft", "zero3", 2),
        ("reward", "zero3", None),
    ],
)
def test_sharded_is_whole_and_goes_on(setting, tmp_path, stage, hardware, ended_by):
    """Losses, clipped gradients, evaluation, the model that is left; and from a checkpoint in the second epoch.

    FSDP2 goes on in another number of processes, ZeRO in the same. Checkpointed, as large models have it.
    """
    checkpointed = "trainer.gradient_checkpointing=true"
    command = [stage, setting / f"{stage}.yaml", checkpointed, f"run.dir={tmp_path}"]
    run_stage(*command, processes=2, hardware=hardware)
    expected = alone(setting, stage, checkpointed)
    assert_same_run(expected, tmp_path)
    if ended_by:
        unfinish(tmp_path, 4)
        run_stage(*command, processes=ended_by, hardware=hardware)
        assert_same_run(expected, tmp_path)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("stage", "hardware"), [("sft", "fsdp2"), ("reward", "fsdp2"), ("sft", "zero2")])
def test_adapters_under_sharding(setting, tmp_path, stage, hardware):
    lora = ["lora.r=4", "trainer.learning_rate=1e-2"]
    run_stage(stage, setting / f"{stage}.yaml", *lora, f"run.dir={tmp_path}", processes=2, hardware=hardware)
    assert_same_run(alone(setting, stage, *lora), tmp_path)


@pytest.mark.timeout(100)
def test_adapters_are_refused_under_zero3(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "lora.r=4", f"run.dir={tmp_path}", processes=2, hardware="zero3")
    assert str(error.value) == "lora.r is 4, but ZeRO-3 takes no adapters here; use HARDWARE=fsdp2 or zero2"


def loaded_and_shared_out(path):
    """Types of a policy's weights: as loaded, as shared out; and what each process holds then of what there is."""
    accelerator = Accelerator(cpu=True)
    tokenizer = load_tokenizer(path)
    model = load_causal(path, Model(path=path), tokenizer, trained=True, as_stored=True)
    loaded, numbers = {weight.dtype for weight in model.parameters()}, model.num_parameters()
    share_out(model, accelerator)
    held = sum(weight.to_local().numel() for weight in model.parameters())
    learns = all(weight.requires_grad for weight in model.parameters())
    return loaded, {weight.dtype for weight in model.parameters()}, held / numbers, learns


@pytest.mark.timeout(100)
def test_weights_become_float32_in_pieces(setting):
    """Processes of a machine share the file's pages until then: none has the whole model in float32."""
    for loaded, shared_out, held, learns in together(loaded_and_shared_out, f"{setting}/base", hardware="fsdp2"):
        assert (loaded, shared_out, learns) == ({torch.bfloat16}, {torch.float32}, True)
        assert held == pytest.approx(0.5, abs=0.01)


@pytest.mark.timeout(100)
def test_tied_embeddings_under_fsdp2(tmp_path):
    setting = make_setting(tmp_path / "setting", tie_word_embeddings=True)
    run_stage("sft", setting / "sft.yaml", f"run.dir={tmp_path / 'run'}", processes=2, hardware="fsdp2")
    assert_same_run(alone(setting, "sft"), tmp_path / "run")
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "lora.r=4", f"run.dir={tmp_path / 'lora'}", hardware="fsdp2")
    assert str(error.value) == (
        "this model's embeddings are tied: FSDP2 takes no adapters on it; use HARDWARE=ddp or zero2"
    )


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path):
    def written(*by):
        sharding.note(tmp_path, Sharding(*by))
        return tmp_path

    for now in (1, 2, 8):
        sharding.check(written("none", 2), Sharding("none", now))
        sharding.check(written("fsdp2", 2), Sharding("fsdp2", now))
    sharding.check(written("zero2", 2), Sharding("zero2", 2))
    with pytest.raises(RunError) as error:
        sharding.check(written("fsdp2", 2), Sharding("none", 1))
    assert str(error.value) == (
        f"{tmp_path} was written with 2 processes under fsdp2 and cannot be continued with one process, unsharded; "
        "use HARDWARE=fsdp2, or name another run.dir"
    )
    with pytest.raises(RunError) as error:
        sharding.check(written("zero3", 4), Sharding("zero3", 2))
    assert str(error.value) == (
        f"{tmp_path} was written with 4 processes under zero3 and cannot be continued with 2 processes under zero3; "
        "use HARDWARE=zero3 and 4 processes, or name another run.dir"
    )
