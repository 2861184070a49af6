"""The section `trainer`: any field of TRL's configuration except those that another section sets."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD
from transformers import get_scheduler

from config import RecipeError, load
from config.trainer import BOUNDS, OPTIMISER_PACKAGES, OWNED_FIELDS, REFUSED_FIELDS
from config.trl_source import trl_fields
from reward.recipe import Reward
from sft.recipe import SFT

DATA = ["data.train=d.jsonl"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: sft\nmodel: {path: m}\nrun: {dir: out}\ndata: {train: d.jsonl}\n")
    return path


def message(schema: type[SFT] | type[Reward], path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(schema, path, [f"stage={schema.STAGE}", *overrides])
    return str(caught.value)


def test_every_restricted_field_exists_in_trl():
    known = trl_fields("SFTConfig") | trl_fields("RewardConfig")
    assert not {*OWNED_FIELDS, *REFUSED_FIELDS, *BOUNDS} - set(known)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learning_rte=1e-4", "unknown key trainer.learning_rte; did you mean trainer.learning_rate?"),
        ("lr=1e-4", "unknown key trainer.lr; did you mean trainer.learning_rate?"),
        ("epochs=2", "unknown key trainer.epochs; did you mean trainer.num_train_epochs?"),
        ("zzzzzz=1", "unknown key trainer.zzzzzz; it takes the fields of TRL's SFTConfig"),
        ("output_dir=x", "trainer.output_dir is decided by another section; set run.dir instead"),
        ("seed=1", "trainer.seed is decided by another section; set run.seed instead"),
        ("save_steps=1", "trainer.save_steps is decided by another section; set run.save_steps instead"),
        (
            "save_total_limit=1",
            "trainer.save_total_limit is decided by another section; set run.keep_checkpoints instead",
        ),
        ("report_to=wandb", "trainer.report_to is decided by another section; set run.report_to instead"),
        ("max_length=1", "trainer.max_length is decided by another section; set data.max_length instead"),
        ("packing=true", "trainer.packing is decided by another section; set data.packing instead"),
        ("bf16=true", "trainer.bf16 is decided by another section; set model.dtype instead"),
        (
            "assistant_only_loss=true",
            "trainer.assistant_only_loss is decided by another section; set chatml.mask instead",
        ),
        (
            "resume_from_checkpoint=true",
            "trainer.resume_from_checkpoint has no effect here: the same command resumes a run; leave it out",
        ),
        (
            "load_best_model_at_end=true",
            "trainer.load_best_model_at_end is decided by another section; set sft.keep_best instead",
        ),
        ("learning_rate=abc", "trainer.learning_rate is abc; it must be of the type float"),
        ("learning_rate=0", "trainer.learning_rate is 0; it must be above 0"),
        ("learning_rate=.nan", "trainer.learning_rate is nan; it must be a finite number"),
        ("max_steps=1.5", "trainer.max_steps is 1.5; it must be of the type int"),
        ("gradient_checkpointing=1", "trainer.gradient_checkpointing is 1; it must be of the type bool"),
        ("adam_beta2=1", "trainer.adam_beta2 is 1; it must be at least 0 and below 1"),
        (
            "eval_strategy=no",
            "trainer.eval_strategy is false; it must be of the type IntervalStrategy | str; "
            "put it in quotes if it is meant as text",
        ),
        (
            "eval_strategy=steps",
            "trainer.eval_strategy is steps, but there is nothing to evaluate on; "
            "set data.eval, or leave trainer.eval_strategy out",
        ),
        ("lr_scheduler_type=cosin", "trainer.lr_scheduler_type is cosin; did you mean cosine?"),
        ("optim=adamw_8bits", "trainer.optim is adamw_8bits; did you mean adamw_8bit?"),
        ("loss_type=xyz", "trainer.loss_type is xyz; it must be one of nll, dft, chunked_nll"),
        ("logging_strategy=epochs", "trainer.logging_strategy is epochs; did you mean epoch?"),
        (
            "optim=galore_adamw",
            "trainer.optim=galore_adamw needs trainer.optim_target_modules; set "
            "trainer.optim_target_modules=[NAME, NAME], or choose another",
        ),
        (
            "lr_scheduler_type=cosine_with_min_lr",
            "trainer.lr_scheduler_type=cosine_with_min_lr needs trainer.lr_scheduler_kwargs with min_lr or "
            "min_lr_rate; set trainer.lr_scheduler_kwargs={min_lr: VALUE}, or choose another",
        ),
        (
            "lr_scheduler_kwargs.min_lr=1",
            "trainer.lr_scheduler_kwargs.min_lr is not a separate key; set trainer.lr_scheduler_kwargs as a whole",
        ),
    ],
)
def test_a_mistake_is_one_exact_line(recipe, override, expected):
    assert message(SFT, recipe, f"trainer.{override}") == expected


def test_a_mistake_in_a_file_names_the_line(recipe):
    recipe.write_text(recipe.read_text() + "trainer:\n  max_steps: 5\n  packing: true\n")
    expected = f"{recipe}:7: trainer.packing is decided by another section; set data.packing instead"
    assert message(SFT, recipe) == expected


def test_fields_of_every_type_are_accepted(recipe):
    accepted = {
        "max_steps": 5,
        "learning_rate": 1,
        "warmup_steps": 0.03,
        "optim": "adamw_torch",
        "lr_scheduler_kwargs": {"num_cycles": 1},
        "max_grad_norm": 0.0,
        "logging_steps": 5,
        "include_for_metrics": ["loss"],
        "neftune_noise_alpha": None,
        "gradient_checkpointing": False,
    }
    overrides = [f"trainer.{name}={'null' if value is None else value}" for name, value in accepted.items()]
    assert load(SFT, recipe, overrides).trainer == accepted


def test_the_best_checkpoint_is_chosen_by_a_key_of_the_stage(recipe):
    with_eval = ("data.eval=e.jsonl", "reward.keep_best=true")
    assert load(Reward, recipe, ["stage=reward", *with_eval]).reward.keep_best
    assert message(Reward, recipe, "reward.keep_best=true") == (
        "reward.keep_best is true, but there is nothing to evaluate on; give data.eval, or set reward.keep_best=false"
    )
    assert message(SFT, recipe, "sft.keep_best=true") == (
        "sft.keep_best is true, but there is nothing to evaluate on; give data.eval, or set sft.keep_best=false"
    )
    assert message(SFT, recipe, "data.eval=e.jsonl", "sft.patience=3") == (
        "sft.patience=3 counts checkpoints that are no better than the best, which sft.keep_best=false does not look "
        "for; set sft.keep_best=true, or sft.patience=null"
    )
    assert message(Reward, recipe, "trainer.load_best_model_at_end=true") == (
        "trainer.load_best_model_at_end is decided by another section; set reward.keep_best instead"
    )
    assert message(Reward, recipe, *with_eval, "trainer.eval_steps=5") == (
        "trainer.eval_steps is decided by another section; set run.save_steps instead"
    )
    assert message(Reward, recipe, "trainer.packing=true") == (
        "unknown key trainer.packing; it takes the fields of TRL's RewardConfig"
    )


def test_every_optimiser_is_torchs_or_has_its_package_listed():
    from transformers.training_args import OptimizerNames

    of_torch = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    assert {optimiser.value for optimiser in OptimizerNames} == of_torch | OPTIMISER_PACKAGES.keys()


@pytest.mark.parametrize("schedule", ["cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"])
def test_arguments_required_by_a_schedule_are_those_that_transformers_requires(recipe, schedule):
    error = message(SFT, recipe, f"trainer.lr_scheduler_type={schedule}")
    advice = error.partition("; set ")[2].partition(", or choose")[0].replace("VALUE", "2")
    given = load(SFT, recipe, [f"trainer.lr_scheduler_type={schedule}", advice]).trainer["lr_scheduler_kwargs"]
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=8.0)
    make = partial(get_scheduler, schedule, optimizer, num_warmup_steps=1, num_training_steps=5)
    make(scheduler_specific_kwargs=given)
    with pytest.raises((TypeError, ValueError)):
        make()


def test_a_schedule_with_its_required_arguments_is_accepted(recipe):
    given = ["trainer.lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs={min_lr_rate: 0.1}"]
    assert load(SFT, recipe, given).trainer["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
