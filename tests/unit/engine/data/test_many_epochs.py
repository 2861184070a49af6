"""--check warns of many epochs, as far as it can know without reading data."""

import pytest

from config import load
from sft.recipe import SFT

TALK, TEXT = '{"prompt": "Hi", "response": "Hello"}\n', '{"text": "Once"}\n'
LIMIT = "more than 10 are rarely of use, which is our choice of a limit"


@pytest.fixture
def warnings(tmp_path):
    """A function that returns the warnings of a recipe, for training data with this content."""

    def warnings(content, *overrides):
        (tmp_path / "a.jsonl").write_text(content)
        text = f"stage: sft\nmodel: {{path: m}}\ndata: {{train: {tmp_path}/a.jsonl}}\nrun: {{dir: out}}\n"
        (tmp_path / "recipe.yaml").write_text(text)
        return list(load(SFT, tmp_path / "recipe.yaml", overrides).warnings())

    return warnings


def test_steps_are_compared_with_the_records(warnings):
    shipped = ["trainer.max_steps=4000", "trainer.per_device_train_batch_size=8",
               "trainer.gradient_accumulation_steps=16"]  # fmt: skip
    assert warnings(TALK * 999, *shipped) == [
        "4,000 steps of 128 rows mean 513 epochs or more over the 999 records of data.train; "
        f"{LIMIT}; lower trainer.max_steps, or name more data"
    ]
    assert warnings(TALK * 100, "trainer.max_steps=125") == []  # 10 epochs of 8 rows
    assert "26 epochs" in warnings(TALK * 100, "trainer.max_steps=160", "data.eval=0.5")[0]


def test_epochs_are_what_they_are(warnings):
    assert warnings(TEXT, "trainer.num_train_epochs=11") == [f"trainer.num_train_epochs is 11; {LIMIT}"]
    assert warnings(TALK) == []


def test_what_is_not_known_is_no_warning(warnings, tmp_path):
    many = "trainer.max_steps=10000"
    assert warnings(TEXT, many) == []  # a document may be many rows
    assert warnings('{"body": "Once"}\n', many, "data.fields={body: text}") == []
    assert warnings("", many) == []
    assert warnings(TALK, many, "data.train=owner/name") == []
    assert warnings(TALK, many, f"data.train={{path: {tmp_path}/a.jsonl, take: 1}}")
