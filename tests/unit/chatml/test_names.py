"""Names of roles in records that a recipe maps to ours."""

from dataclasses import replace

import pytest

from chatml import ROLES, Message, read_conversation, read_pair, read_prompt
from config import RecipeError, load
from config.data import ROLES as PERMITTED
from config.data import Source
from engine.data import encoding
from engine.data.chatml_section import ChatML
from engine.data.encoding import Settings
from engine.data.prepare import prepare_rows
from sft.recipe import SFT
from tests.support.records import ANSWER, SYSTEM, USER
from tests.support.rows_setting import TRAIN, conversation_rows, pair_rows, prompt_rows, recipe, refusal
from tests.support.tokenizers import qwen

THEIRS = {"developer": "system", "model": "assistant", "User": "user", "ipython": "tool"}
TALK = [
    {"role": "developer", "content": "Be kind."},
    {"role": "User", "content": "Hi"},
    {"role": "model", "content": "Hello"},
]
OURS = (SYSTEM, USER, ANSWER)
SHAREGPT = [{"from": "developer", "value": "Be kind."}, {"from": "human", "value": "Hi"},
            {"from": "model", "value": "Hello"}]  # fmt: skip


def test_roles_are_mapped_in_every_shape():
    assert read_conversation({"messages": TALK}, roles=THEIRS).messages == OURS
    assert read_conversation({"conversations": SHAREGPT}, roles=THEIRS).messages == OURS
    assert read_conversation({"prompt": TALK[:2], "response": TALK[2]}, roles=THEIRS).messages == OURS
    assert read_prompt({"dialogue": TALK}, {"dialogue": "messages"}, THEIRS).messages == OURS[:2]
    pair = read_pair({"prompt": TALK[:2], "chosen": [TALK[2]], "rejected": {**TALK[2], "content": "No"}}, roles=THEIRS)
    assert pair[:3] == (OURS[:2], (ANSWER,), (Message("assistant", "No"),))
    tools = [*TALK, {"role": "ipython", "content": "7"}, TALK[2]]
    assert read_conversation({"messages": tools}, roles=THEIRS).messages[3] == Message("tool", "7")


def test_what_is_said_is_not_mapped_and_the_record_is_left_as_it_is():
    said = {"messages": [{"role": "user", "content": "model"}, {"role": "model", "content": "developer"}]}
    assert [message.content for message in read_conversation(said, roles=THEIRS).messages] == ["model", "developer"]
    assert said["messages"][1]["role"] == "model"


def test_a_recipe_maps_roles_of_conversations_comparisons_and_prompts(file):
    given = recipe(roles=THEIRS)
    (row,), _ = conversation_rows(file({"messages": TALK}), given, qwen(), **TRAIN)
    written = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert qwen().decode(row["input_ids"]) == f"{written}Hello<|im_end|>\n"
    comparison = {"chosen": TALK, "rejected": [*TALK[:2], {"role": "model", "content": "No"}]}
    (pair,), _ = pair_rows(file(comparison), given, qwen(), **TRAIN)
    assert qwen().decode(pair["rejected_ids"]) == f"{written}No<|im_end|>"
    (asked,), _ = prompt_rows(file({"messages": TALK}), given, qwen(), key="data.prompts", max_prompt_tokens=64)
    assert qwen().decode(asked["input_ids"]) == written


def test_the_advice_of_an_unknown_role_can_be_followed(file):
    path = file({"messages": [{"role": "user", "content": "Hi"}, {"role": "bard-2", "content": "Hello"}]})
    told = refusal(conversation_rows, path, recipe(), **TRAIN)
    advice = "use system, user, assistant, tool, or map it to system, user, assistant or tool: data.roles.bard-2=ROLE"
    assert told == (
        f"{path}:1: 'messages', message 2: unknown role 'bard-2'; {advice}; correct it, or set data.on_bad_record=skip"
    )
    override = advice[advice.index("data.roles") :].replace("ROLE", "assistant")
    followed = load(SFT, "recipes/tiny/sft.yaml", [f"data.train={path}", "model.path=m", override])
    (row,), _ = conversation_rows(path, recipe(roles=followed.data.roles), qwen(), **TRAIN)
    assert qwen().decode(row["input_ids"]).endswith("<|im_start|>assistant\nHello<|im_end|>\n")


@pytest.mark.parametrize("share", [[], ["data.eval=0.1"]])
def test_a_role_that_is_none_of_ours_is_refused_with_the_recipe(share):
    given = ["model.path=m", "data.train=t.jsonl", "run.dir=r", *share]
    assert load(SFT, "recipes/tiny/sft.yaml", [*given, "data.roles={model: assistant}"]).data.roles == {
        "model": "assistant"
    }
    with pytest.raises(RecipeError) as error:
        load(SFT, "recipes/tiny/sft.yaml", [*given, "data.roles={model: bot}"])
    assert str(error.value).endswith("data.roles.model is bot; it must be one of system, user, assistant, tool")
    assert PERMITTED == ROLES


def test_roles_and_parse_text_are_part_of_the_key_of_prepared_rows(file):
    settings = Settings(ChatML(), {}, "cut_left", "error", "data.max_length", 64)
    source = Source(file({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}))
    rows = {
        prepare_rows(encoding.conversations, source, given, qwen(), "data.train")[0].cache_files[0]["filename"]
        for given in (
            settings,
            replace(settings, roles={"a": "user"}),
            replace(settings, chatml=ChatML(parse_text=True)),
        )
    }
    assert len(rows) == 3
