"""SFT and reward runs whose processes share a model (FSDP2, DeepSpeed's ZeRO) are those of one that holds it whole."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.checkpoint import FileSystemReader

from config.sections import Lora, Model
from engine.dist.shard_model import shard_model
from engine.errors import RunError
from engine.models.adapters import add_adapters
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from tests.support.processes import run_stage, together
from tests.support.stage_runs import same, unfinish, untimed, weights
from tests.support.uneven_setting import alone, assert_same_run, make_setting, run_by


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize(
    ("stage", "hardware", "then"),
    [
        ("sft", "fsdp2", [(1, "none"), (3, "zero3")]),
        ("reward", "fsdp2", [(3, "zero2")]),
        ("sft", "zero2", [(1, "fsdp2")]),
        ("sft", "zero3", [(1, "zero2")]),
        ("reward", "zero3", [(4, "fsdp2"), (1, "none")]),
    ],
)
def test_sharded_is_whole_and_goes_on(setting, tmp_path, stage, hardware, then):
    """Losses, clipped gradients, evaluation, the model that is left; and from checkpoints of both epochs.

    It goes on under other kinds, in other numbers of processes. Checkpointed, as large models have it.
    """
    follow(setting, stage, tmp_path, (2, hardware), then, "trainer.gradient_checkpointing=true")


@pytest.mark.parametrize(
    ("stage", "hardware", "then"),
    [
        ("sft", "fsdp2", [(3, "zero2")]),
        ("reward", "fsdp2", [(1, "none"), (3, "zero2")]),
        ("sft", "zero3", [(1, "none"), (3, "fsdp2")]),
    ],
)
def test_adapters_under_sharding(setting, tmp_path, stage, hardware, then):
    lora = ["lora.r=4", "trainer.learning_rate=1e-2", "trainer.gradient_checkpointing=true"]
    follow(setting, stage, tmp_path, (2, hardware), then, *lora)
    by_name = FileSystemReader(tmp_path / "checkpoint-2" / "by_name").read_metadata().state_dict_metadata
    assert not any("base_layer" in name or "original" in name for name in by_name)  # nothing of the frozen base


def follow(setting, stage, run, first, then, *overrides):
    """A run by some processes, ended again from its checkpoints by others, is that of one at every end."""
    expected = alone(setting, stage, *overrides)
    run_by(*first, setting, stage, run, *overrides)
    assert_same_run(expected, run)
    for step, others in zip((2, 4)[-len(then) :], then, strict=True):
        unfinish(run, step)
        run_by(*others, setting, stage, run, *overrides)
        assert_same_run(expected, run)


@pytest.mark.parametrize("hardware", ["fsdp2", "zero2", "zero3"])
def test_the_best_checkpoint_is_taken_whoever_wrote_it(setting, tmp_path, hardware):
    best = ["reward.keep_best=true", "trainer.learning_rate=3e-2", "run.save_steps=1"]
    run = tmp_path / "run"
    shutil.copytree(alone(setting, "reward", *best), run)
    unfinish(run, 5)
    run_by(2, hardware, setting, "reward", run, *best)
    accuracy = {row["step"]: row["eval_accuracy"] for row in untimed(run) if "eval_accuracy" in row}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert best < 5
    assert same(weights(run), weights(run, f"checkpoint-{best}"))


def test_what_is_refused_under_deepspeed(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "trainer.optim=adafactor", f"run.dir={tmp_path}", hardware="zero2")
    assert str(error.value) == (
        "trainer.optim=adafactor cannot be saved under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2"
    )


def loaded_and_shared_out(path):
    """Types of the weights of a policy and of one under adapters, the trained and the frozen: as loaded, as shared out;
    and what share of the numbers each process holds then."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    tokenizer, found = load_tokenizer(path), []
    for rank in (0, 4):
        model = load_causal(path, Model(path=path), tokenizer, trained=True, as_stored=True)
        loaded = {weight.dtype for weight in model.parameters()}
        model = add_adapters(model, Lora(r=rank), tokenizer, 1, torch.bfloat16)
        numbers = sum(weight.numel() for weight in model.parameters())
        shard_model(model, accelerator)
        held = sum(weight.to_local().numel() for weight in model.parameters())
        types = [
            {weight.dtype for weight in model.parameters() if weight.requires_grad is learns}
            for learns in (True, False)
        ]
        found.append((loaded, *types, held / numbers))
    return found


def test_weights_become_float32_in_pieces(setting):
    """Processes of a machine share the file's pages until then: none has the whole model in float32. What is frozen
    stays in bfloat16, if it is computed with in bfloat16."""
    stored, whole = {torch.bfloat16}, {torch.float32}
    for full, lora in together(loaded_and_shared_out, f"{setting}/base", hardware="fsdp2"):
        assert full == (stored, whole, set(), pytest.approx(0.5, abs=0.01))
        assert lora == (stored, whole, stored, pytest.approx(0.5, abs=0.01))


def test_tied_embeddings_under_fsdp2(tmp_path):
    setting, run = make_setting(tmp_path / "setting", tie_word_embeddings=True), tmp_path / "run"
    follow(setting, "sft", run, (1, "none"), [(2, "fsdp2"), (1, "none")])
    follow(setting, "sft", tmp_path / "lora", (2, "fsdp2"), [(3, "fsdp2")], "lora.r=4", "trainer.learning_rate=1e-2")
