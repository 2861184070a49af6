"""Which reward models can score the policy's tokens."""

import json
import re
import shutil

import pytest

from config.sections import Model
from engine.errors import RunError
from engine.models.tokenizer import load_tokenizer
from engine.scoring.scorer import refuse_other_vocabulary
from tests.support.ppo_setting import make_setting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorer")
    make_setting(folder)
    return folder


def refuse(folder, reward):
    policy = str(folder / "policy")
    refuse_other_vocabulary(str(reward), "reward.path", Model(path=policy), load_tokenizer(policy))


def changed(folder, to, change):
    """Copy the reward model and change the JSON of its files with `change`."""
    shutil.copytree(folder / "reward", to)
    for name in ("tokenizer.json", "config.json"):
        found = json.loads((to / name).read_text())
        change(name, found)
        (to / name).write_text(json.dumps(found))
    return to


def test_a_reward_model_of_the_same_base_is_accepted(folder):
    refuse(folder, folder / "reward")


def test_a_vocabulary_of_equal_size_with_other_ids_is_refused(folder, tmp_path):
    """The ids of two letters are swapped; tokenizers that were trained separately differ in hundreds of ids."""

    def swap(name, found):
        if name == "tokenizer.json":
            words = found["model"]["vocab"]
            words["a"], words["b"] = words["b"], words["a"]

    other = changed(folder, tmp_path / "other", swap)
    known = len(load_tokenizer(str(folder / "policy")).get_vocab())
    assert len(load_tokenizer(str(other)).get_vocab()) == known
    with pytest.raises(RunError) as error:
        refuse(folder, other)
    assert str(error.value) == (
        f"reward.path={other} has another vocabulary than {folder}/policy: of {known} tokens 2 have another id, or "
        f"none, in its vocabulary of {known}; both models must come from the same base"
    )


def test_a_score_read_at_another_end_token_is_refused(folder, tmp_path):
    """<|endoftext|> also ends the policy's generation, but not its answers."""
    ids = load_tokenizer(str(folder / "policy")).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])

    def at_endoftext(name, found):
        if name == "config.json":
            found["score_token_id"] = ids[1]

    other = changed(folder, tmp_path / "other", at_endoftext)
    with pytest.raises(RunError) as error:
        refuse(folder, other)
    assert str(error.value) == (
        f"reward.path={other} reads its score at token {ids[1]}, not at <|im_end|>, which is {ids[0]} for "
        f"{folder}/policy; both models must come from the same base"
    )


def test_a_folder_without_tokenizer_is_refused(folder, tmp_path):
    other = shutil.copytree(folder / "reward", tmp_path / "bare")
    for file in other.glob("*token*"):
        file.unlink()
    with pytest.raises(RunError, match=f"^no tokenizer at {re.escape(str(other))} "):
        refuse(folder, other)
