"""SFT and reward runs whose processes share a model (FSDP2, DeepSpeed's ZeRO) are those of one that holds it whole."""

import pytest
import torch
from accelerate import Accelerator

from engine.models.adapters import adapted
from engine.models.loading import load_causal
from engine.models.sharded import share_out
from engine.models.tokenizer import load_tokenizer
from engine.run import sharding
from engine.run.folder import RunError
from engine.run.sharding import Sharding
from recipes.sections import Lora, Model
from tests.processes import run_stage, together
from tests.stage_runs import same, untimed, weights
from tests.uneven_setting import alone, assert_same_run, make_setting, unfinish


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("sharded"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("stage", "hardware", "ended_by"),
    [
        ("sft", "fsdp2", (1, "fsdp2")),
        ("reward", "fsdp2", (3, "fsdp2")),
        ("sft", "zero2", (3, "zero3")),
        ("sft", "zero3", (1, "zero2")),
        ("reward", "zero3", (4, "zero3")),
    ],
)
def test_sharded_is_whole_and_goes_on(setting, tmp_path, stage, hardware, ended_by):
    """Losses, clipped gradients, evaluation, the model that is left; and from a checkpoint in the second epoch.

    It goes on in another number of processes. Checkpointed, as large models have it.
    """
    checkpointed = "trainer.gradient_checkpointing=true"
    command = [stage, setting / f"{stage}.yaml", checkpointed, f"run.dir={tmp_path}"]
    run_stage(*command, processes=2, hardware=hardware)
    expected = alone(setting, stage, checkpointed)
    assert_same_run(expected, tmp_path)
    unfinish(tmp_path, 4)
    processes, hardware = ended_by
    run_stage(*command, processes=processes, hardware=hardware)
    assert_same_run(expected, tmp_path)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("stage", "hardware", "then"), [("sft", "fsdp2", "fsdp2"), ("reward", "fsdp2", "fsdp2"), ("sft", "zero3", "zero2")]
)
def test_adapters_under_sharding(setting, tmp_path, stage, hardware, then):
    lora = ["lora.r=4", "trainer.learning_rate=1e-2", "trainer.gradient_checkpointing=true"]
    command = [stage, setting / f"{stage}.yaml", *lora, f"run.dir={tmp_path}"]
    run_stage(*command, processes=2, hardware=hardware)
    assert_same_run(alone(setting, stage, *lora), tmp_path)
    unfinish(tmp_path, 4)
    run_stage(*command, processes=3, hardware=then)
    assert_same_run(alone(setting, stage, *lora), tmp_path)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("hardware", ["zero2", "zero3"])
def test_the_best_checkpoint_under_deepspeed(setting, tmp_path, hardware):
    best = ["reward.keep_best=true", "trainer.learning_rate=3e-2", "run.save_steps=1"]
    run_stage("reward", setting / "reward.yaml", *best, f"run.dir={tmp_path}", processes=2, hardware=hardware)
    accuracy = {row["step"]: row["eval_accuracy"] for row in untimed(tmp_path) if "eval_accuracy" in row}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert best < max(accuracy)
    assert same(weights(tmp_path), weights(tmp_path, f"checkpoint-{best}"))


@pytest.mark.timeout(100)
def test_what_is_refused_under_deepspeed(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "trainer.optim=adafactor", f"run.dir={tmp_path}", hardware="zero2")
    assert str(error.value) == (
        "trainer.optim=adafactor has no checkpoints under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2"
    )


def loaded_and_shared_out(path):
    """Types of the weights of a policy and of one under adapters, the trained and the frozen: as loaded, as shared out;
    and what share of the numbers each process holds then."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    tokenizer, found = load_tokenizer(path), []
    for rank in (0, 4):
        model = load_causal(path, Model(path=path), tokenizer, trained=True, as_stored=True)
        loaded = {weight.dtype for weight in model.parameters()}
        model = adapted(model, Lora(r=rank), tokenizer, seed=1)
        numbers = sum(weight.numel() for weight in model.parameters())
        share_out(model, accelerator)
        held = sum(weight.to_local().numel() for weight in model.parameters())
        types = [
            {weight.dtype for weight in model.parameters() if weight.requires_grad is learns}
            for learns in (True, False)
        ]
        found.append((loaded, *types, held / numbers))
    return found


@pytest.mark.timeout(100)
def test_weights_become_float32_in_pieces(setting):
    """Processes of a machine share the file's pages until then: none has the whole model in float32. What is frozen
    stays in bfloat16, if it is computed with in bfloat16."""
    stored, whole = {torch.bfloat16}, {torch.float32}
    for full, lora in together(loaded_and_shared_out, f"{setting}/base", hardware="fsdp2"):
        assert full == (stored, whole, set(), pytest.approx(0.5, abs=0.01))
        assert lora == (stored, whole, stored, pytest.approx(0.5, abs=0.01))


@pytest.mark.timeout(100)
def test_tied_embeddings_under_fsdp2(tmp_path):
    setting = make_setting(tmp_path / "setting", tie_word_embeddings=True)
    for name, overrides in (("run", ()), ("lora", ("lora.r=4", "trainer.learning_rate=1e-2"))):
        run_stage("sft", setting / "sft.yaml", *overrides, f"run.dir={tmp_path / name}", processes=2, hardware="fsdp2")
        assert_same_run(alone(setting, "sft", *overrides), tmp_path / name)


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path):
    def written(*by):
        sharding.note(tmp_path, Sharding(*by))
        return tmp_path

    for now in (1, 2, 8):
        for kind in ("none", "fsdp2", "zero2", "zero3"):
            sharding.check(written(kind, 2), Sharding(kind, now))
    sharding.check(written("zero2", 2), Sharding("zero3", 3))
    for kind, hardware in (("fsdp2", "fsdp2"), ("zero3", "zero3")):
        with pytest.raises(RunError) as error:
            sharding.check(written(kind, 2), Sharding("none", 1))
        assert str(error.value) == (
            f"{tmp_path} was written with 2 processes under {kind} and cannot be continued with one process, "
            f"unsharded; use HARDWARE={hardware}, or name another run.dir"
        )
