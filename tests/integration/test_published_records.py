"""Every record of the published data sets can be read."""

import pytest

from chatml import ToolCall, read_conversation, read_pair, read_prompt, read_text
from config.data import Source
from engine.data.sources import read_source
from tests.support.paths import DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")


@pytest.mark.parametrize(
    ("file", "readers", "count"),
    [
        ("alpaca_en.json", (read_conversation, read_prompt), 999),
        ("alpaca_zh.json", (read_conversation, read_prompt), 1000),
        ("glaive_toolcall_en.json", (read_conversation, read_prompt), 300),
        ("preference_en_sharegpt.json", (read_conversation, read_prompt, read_pair), 300),
        ("hh_helpful_online.jsonl.gz", (read_conversation, read_prompt, read_pair), 1137),
        ("hh_helpful_rejection_sampled.jsonl.gz", (read_conversation, read_prompt, read_pair), 2749),
        ("hh_harmless_base.jsonl.gz", (read_conversation, read_prompt, read_pair), 2312),
        ("gsm8k_train.jsonl", (read_conversation, read_prompt), 7473),
        ("mmlu_dev.jsonl", (read_conversation, read_prompt), 285),
        ("humaneval.jsonl.gz", (read_prompt,), 164),
        ("wikitext2_valid.txt", (read_text,), 1),
    ],
)
def test_every_record_of_a_published_set_can_be_read(file, readers, count):
    records = [record for _, record in read_source(Source(str(DATA / file)))]
    assert len(records) == count
    fields = {"question": "prompt", "answer": "response"} if file.startswith(("gsm8k", "mmlu")) else None
    for record in records:
        for reader in readers:
            assert reader(record, fields)


def test_the_tool_calls_of_glaive_are_read():
    conversations = [
        read_conversation(record) for _, record in read_source(Source(str(DATA / "glaive_toolcall_en.json")))
    ]
    all_messages = [message for conversation in conversations for message in conversation.messages]
    assert sum(message.tool_calls is not None for message in all_messages) == 211
    assert sum(message.role == "tool" for message in all_messages) == 211
    assert conversations[0].messages[3].tool_calls == (
        ToolCall("search_recipes", {"ingredients": ["chicken", "bell peppers", "rice"]}),
    )
    assert conversations[0].tools[0]["function"]["name"] == "search_recipes"
