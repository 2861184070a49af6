"""The data section: a share of the training records held out for evaluation, and invalid combinations."""

import json

import pytest

from config import RecipeError, load
from config.data import Source, TrainingData, sources
from ppo.recipe import PPOData
from reward.recipe import Reward
from sft.recipe import SFT
from sft.train import conversation_rows
from tests.support.rows_setting import recipe
from tests.support.tokenizers import qwen


def error_of(schema, tmp_path, **data):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"stage": schema.STAGE, "model": {"path": "a"}, "data": data, "run": {"dir": "b"}}))
    with pytest.raises(RecipeError) as error:
        load(schema, recipe)
    return str(error.value).replace(str(recipe), "FILE")


def test_a_share_of_the_training_data_is_held_out():
    data = TrainingData(train=["a.jsonl", {"path": "b.jsonl", "weight": 2.0}], eval=0.02)
    assert data.sources("train") == [
        Source("a.jsonl", without_share=0.02), Source("b.jsonl", weight=2.0, without_share=0.02),
    ]  # fmt: skip
    assert data.sources("eval") == [
        Source("a.jsonl", only_share=0.02), Source("b.jsonl", weight=2.0, only_share=0.02),
    ]  # fmt: skip
    inputs = [(f"data.{key}", path) for key in ("train", "eval") for path in ("a.jsonl", "b.jsonl")]
    assert list(data.inputs()) == inputs


def test_a_share_of_the_prompts_is_held_out():
    data = PPOData(prompts="a.jsonl", pretrain="t.jsonl", heldout=0.05)
    assert data.sources("prompts") == [Source("a.jsonl", without_share=0.05)]
    assert data.sources("heldout") == [Source("a.jsonl", only_share=0.05)]
    assert data.sources("pretrain") == [Source("t.jsonl")]
    data.check("data")
    with pytest.raises(RecipeError, match=r"^data\.heldout is 1\.5; a share of data\.prompts must"):
        PPOData(prompts="a.jsonl", heldout=1.5).check("data")
    with pytest.raises(RecipeError, match=r"^data\.pretrain is 0\.5; it must be a path"):
        PPOData(prompts="a.jsonl", pretrain=0.5).check("data")


def test_without_a_share_train_and_eval_are_separate_sources():
    data = TrainingData(train="a.jsonl", eval="b.jsonl")
    assert (data.sources("train"), data.sources("eval")) == ([Source("a.jsonl")], [Source("b.jsonl")])
    assert sources([Source("a.jsonl")], "data.train") == [Source("a.jsonl")]


@pytest.mark.parametrize("schema", [SFT, Reward])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": "a", "eval": 2}, "FILE:1: data.eval is 2; a share of data.train must be above 0 and below 1"),
        ({"train": "a", "eval": 0.0}, "FILE:1: data.eval is 0.0; a share of data.train must be above 0 and below 1"),
        (
            {"train": {"path": "a", "only_share": 0.5}, "eval": 0.1},
            "FILE:1: data.eval is 0.1, a share of data.train, which has without_share or only_share already; "
            "leave that out, or give data.eval a source",
        ),
        ({"train": "a", "eval": True}, "FILE:1: data.eval is true; it must be a path, a hub id, or a mapping with the "
         "keys path, split, name, revision, fields, weight, skip, take, without_share, only_share"),
        (
            {"train": {"path": "a", "only_share": 0.5, "without_share": 0.5}},
            "FILE:1: data.train has both without_share and only_share; leave one of them out",
        ),
        (
            {"train": {"path": "a", "only_share": 1}},
            "FILE:1: data.train.only_share is 1.0; it must be above 0 and below 1",
        ),
        (
            {"train": "a", "on_bad_record": "ignore"},
            "FILE:1: data.on_bad_record is ignore; it must be one of error, skip",
        ),
    ],
)  # fmt: skip
def test_invalid_values_and_combinations_are_refused(tmp_path, schema, data, message):
    assert error_of(schema, tmp_path, **data) == message


class Folder:
    """A run folder that keeps the reports of a stage in memory."""

    def keep_report(self, name, rows, report):
        setattr(self, name, report)
        return rows


def test_a_stage_trains_on_the_records_that_are_not_held_out(file):
    path = file(*[{"prompt": f"What is {n}?", "response": str(n)} for n in range(200)])
    folder, ids = Folder(), {}
    for name in ("train", "eval"):
        rows = conversation_rows(name, recipe(train=path, eval=0.1, packing=False), qwen(), folder)
        ids[name] = {tuple(row["input_ids"]) for row in rows}
    assert folder.train.read + folder.eval.read == 200
    assert 8 < folder.eval.kept < 35
    assert not ids["train"] & ids["eval"]


def test_too_few_records_for_a_share_are_an_error(file):
    path = file({"prompt": "Hi", "response": "Yes."})
    with pytest.raises(RecipeError) as error:
        conversation_rows("eval", recipe(train=path, eval=1e-9), qwen(), Folder())
    assert str(error.value) == (
        f"{path}: no record is in the share of 1e-09, which a hash of each record decides; raise it, or add records"
    )
