"""Role names in records that a recipe maps to ours (`data.roles`)."""

from dataclasses import replace

import pytest

from chatml import ROLES, Message, read_conversation, read_pair, read_prompt
from config import RecipeError, load
from config.data import ROLES as CONFIG_ROLES
from config.data import Source
from engine.data import encoding
from engine.data.chatml_section import ChatML
from engine.data.prepare import prepare_rows
from engine.data.reading import Settings
from sft.recipe import SFT
from tests.support.records import ANSWER, SYSTEM, USER
from tests.support.rows_setting import TRAIN, conversation_rows, pair_rows, prompt_rows, recipe, refusal
from tests.support.tokenizers import qwen

NAMES = {"developer": "system", "model": "assistant", "User": "user", "ipython": "tool"}
TALK = [
    {"role": "developer", "content": "Be kind."},
    {"role": "User", "content": "Hi"},
    {"role": "model", "content": "Hello"},
]
MESSAGES = (SYSTEM, USER, ANSWER)
SHAREGPT = [{"from": "developer", "value": "Be kind."}, {"from": "human", "value": "Hi"},
            {"from": "model", "value": "Hello"}]  # fmt: skip


def test_roles_are_mapped_in_every_shape():
    assert read_conversation({"messages": TALK}, roles=NAMES).messages == MESSAGES
    assert read_conversation({"conversations": SHAREGPT}, roles=NAMES).messages == MESSAGES
    assert read_conversation({"prompt": TALK[:2], "response": TALK[2]}, roles=NAMES).messages == MESSAGES
    assert read_prompt({"dialogue": TALK}, {"dialogue": "messages"}, NAMES).messages == MESSAGES[:2]
    pair = read_pair({"prompt": TALK[:2], "chosen": [TALK[2]], "rejected": {**TALK[2], "content": "No"}}, roles=NAMES)
    assert pair[:3] == (MESSAGES[:2], (ANSWER,), (Message("assistant", "No"),))
    tools = [*TALK, {"role": "ipython", "content": "7"}, TALK[2]]
    assert read_conversation({"messages": tools}, roles=NAMES).messages[3] == Message("tool", "7")


def test_contents_are_not_mapped_and_the_record_is_not_modified():
    record = {"messages": [{"role": "user", "content": "model"}, {"role": "model", "content": "developer"}]}
    assert [message.content for message in read_conversation(record, roles=NAMES).messages] == [
        "model",
        "developer",
    ]
    assert record["messages"][1]["role"] == "model"


def test_a_recipe_maps_roles_of_conversations_comparisons_and_prompts(file):
    given = recipe(roles=NAMES)
    (row,), _ = conversation_rows(file({"messages": TALK}), given, qwen(), **TRAIN)
    prompt = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert qwen().decode(row["input_ids"]) == f"{prompt}Hello<|im_end|>\n"
    comparison = {"chosen": TALK, "rejected": [*TALK[:2], {"role": "model", "content": "No"}]}
    (pair,), _ = pair_rows(file(comparison), given, qwen(), **TRAIN)
    assert qwen().decode(pair["rejected_ids"]) == f"{prompt}No<|im_end|>"
    (prompt_row,), _ = prompt_rows(file({"messages": TALK}), given, qwen(), key="data.prompts", max_prompt_tokens=64)
    assert qwen().decode(prompt_row["input_ids"]) == prompt


def test_following_the_advice_for_an_unknown_role_works(file):
    path = file({"messages": [{"role": "user", "content": "Hi"}, {"role": "bard-2", "content": "Hello"}]})
    error = refusal(conversation_rows, path, recipe(), **TRAIN)
    advice = "use system, user, assistant, tool, or map it to system, user, assistant or tool: data.roles.bard-2=ROLE"
    assert error == (
        f"{path}:1: 'messages', message 2: unknown role 'bard-2'; {advice}; correct it, or set data.on_bad_record=skip"
    )
    override = advice[advice.index("data.roles") :].replace("ROLE", "assistant")
    followed = load(SFT, "recipes/tiny/sft.yaml", [f"data.train={path}", "model.path=m", override])
    (row,), _ = conversation_rows(path, recipe(roles=followed.data.roles), qwen(), **TRAIN)
    assert qwen().decode(row["input_ids"]).endswith("<|im_start|>assistant\nHello<|im_end|>\n")


@pytest.mark.parametrize("share", [[], ["data.eval=0.1"]])
def test_mapping_to_an_unknown_role_is_refused_when_the_recipe_is_loaded(share):
    given = ["model.path=m", "data.train=t.jsonl", "run.dir=r", *share]
    assert load(SFT, "recipes/tiny/sft.yaml", [*given, "data.roles={model: assistant}"]).data.roles == {
        "model": "assistant"
    }
    with pytest.raises(RecipeError) as caught:
        load(SFT, "recipes/tiny/sft.yaml", [*given, "data.roles={model: bot}"])
    assert str(caught.value).endswith("data.roles.model is bot; it must be one of system, user, assistant, tool")
    assert CONFIG_ROLES == ROLES


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
