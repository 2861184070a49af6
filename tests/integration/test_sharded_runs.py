"""SFT and reward runs sharded by FSDP2 or DeepSpeed's ZeRO equal those of one process."""

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
from tests.support.processes import run_on_ranks, run_stage
from tests.support.stage_runs import same, unfinish, untimed, weights
from tests.support.uneven_setting import assert_same_run, make_setting, run_in_this_process, run_to_end


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
def test_sharded_runs_equal_one_process_and_resume_under_other_sharding(setting, tmp_path, stage, hardware, then):
    """Metrics, evaluation and the finished model; resumed from checkpoints of both epochs on other numbers of ranks.

    With gradient checkpointing, as large models are trained.
    """
    run_and_resume(setting, stage, tmp_path, (2, hardware), then, "trainer.gradient_checkpointing=true")


@pytest.mark.parametrize(
    ("stage", "hardware", "then"),
    [
        ("sft", "fsdp2", [(3, "zero2")]),
        ("reward", "fsdp2", [(1, "none"), (3, "zero2")]),
        ("sft", "zero3", [(1, "none"), (3, "fsdp2")]),
    ],
)
def test_sharded_adapters_equal_one_process_and_resume_under_other_sharding(setting, tmp_path, stage, hardware, then):
    lora = ["lora.r=4", "trainer.learning_rate=1e-2", "trainer.gradient_checkpointing=true"]
    run_and_resume(setting, stage, tmp_path, (2, hardware), then, *lora)
    by_name = FileSystemReader(tmp_path / "checkpoint-2" / "by_name").read_metadata().state_dict_metadata
    assert not any("base_layer" in name or "original" in name for name in by_name)  # no weights of the frozen base


def run_and_resume(setting, stage, run, first, then, *overrides):
    """Assert that a run on some ranks, and its checkpoints resumed on others, equal a run of one process."""
    expected = run_in_this_process(setting, stage, *overrides)
    run_to_end(*first, setting, stage, run, *overrides)
    assert_same_run(expected, run)
    for step, others in zip((2, 4)[-len(then) :], then, strict=True):
        unfinish(run, step)
        run_to_end(*others, setting, stage, run, *overrides)
        assert_same_run(expected, run)


@pytest.mark.parametrize("hardware", ["fsdp2", "zero2", "zero3"])
def test_sharded_ranks_load_the_best_checkpoint_of_one_process(setting, tmp_path, hardware):
    best = ["reward.keep_best=true", "trainer.learning_rate=3e-2", "run.save_steps=1"]
    run = tmp_path / "run"
    shutil.copytree(run_in_this_process(setting, "reward", *best), run)
    unfinish(run, 5)
    run_to_end(2, hardware, setting, "reward", run, *best)
    accuracy = {row["step"]: row["eval_accuracy"] for row in untimed(run) if "eval_accuracy" in row}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert best < 5
    assert same(weights(run), weights(run, f"checkpoint-{best}"))


def test_adafactor_under_deepspeed_is_refused(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("sft", setting / "sft.yaml", "trainer.optim=adafactor", f"run.dir={tmp_path}", hardware="zero2")
    assert str(error.value) == (
        "trainer.optim=adafactor cannot be saved under ZeRO; use adamw_torch_fused, or HARDWARE=fsdp2"
    )


def dtypes_and_share(path):
    """Return, for full finetuning and for LoRA, the dtypes as loaded, the dtypes of trained and of frozen weights once
    sharded, and the share of the weights on this rank."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    tokenizer, found = load_tokenizer(path), []
    for rank in (0, 4):
        model = load_causal(path, Model(path=path), tokenizer, trained=True, as_stored=True)
        loaded = {weight.dtype for weight in model.parameters()}
        model = add_adapters(model, Lora(r=rank), tokenizer, 1, torch.bfloat16)
        numbers = sum(weight.numel() for weight in model.parameters())
        shard_model(model, accelerator)
        stored = sum(weight.to_local().numel() for weight in model.parameters())
        types = [
            {weight.dtype for weight in model.parameters() if weight.requires_grad is trained}
            for trained in (True, False)
        ]
        found.append((loaded, *types, stored / numbers))
    return found


def test_weights_are_converted_to_float32_after_sharding(setting):
    """Until then the ranks of a machine share the file's pages, and none holds the full model in float32. Frozen
    weights stay in bfloat16 if the computation is in bfloat16."""
    stored, whole = {torch.bfloat16}, {torch.float32}
    for full, lora in run_on_ranks(dtypes_and_share, f"{setting}/base", hardware="fsdp2"):
        assert full == (stored, whole, set(), pytest.approx(0.5, abs=0.01))
        assert lora == (stored, whole, stored, pytest.approx(0.5, abs=0.01))


def test_tied_embeddings_under_fsdp2_equal_one_process(tmp_path):
    setting, run = make_setting(tmp_path / "setting", tie_word_embeddings=True), tmp_path / "run"
    run_and_resume(setting, "sft", run, (1, "none"), [(2, "fsdp2"), (1, "none")])
    run_and_resume(
        setting, "sft", tmp_path / "lora", (2, "fsdp2"), [(3, "fsdp2")], "lora.r=4", "trainer.learning_rate=1e-2"
    )
