"""Answers that repeat the prompt: the prompt is used once, or the record is refused."""

import pytest

from chatml import Message, RecordError, read_conversation, read_pair, read_prompt
from tests.support.records import SYSTEM, USER
from tests.support.rows_setting import TRAIN, pair_rows, recipe
from tests.support.tokenizers import qwen

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
START = f"{HUMAN} Hi{ASSISTANT}"
YES, NO = Message("assistant", "yes"), Message("assistant", "no")
PROMPTS = {
    "a transcript that ends in the assistant's turn": START,
    "a transcript without an answer": f"{HUMAN} Hi",
    "plain text": "Hi",
    "plain text with white space": "Hi \n",
    "messages": [{"role": "user", "content": "Hi"}],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_repeated_prompt_is_used_once(prompt):
    record = {"prompt": PROMPTS[prompt], "chosen": f"{START} yes", "rejected": f"{START} no"}
    pair = read_pair(record)
    assert (pair.prompt[0].role, pair.prompt[0].content.strip()) == ("user", "Hi")
    assert (len(pair.prompt), pair.chosen, pair.rejected) == (1, (YES,), (NO,))
    answered = read_conversation({"prompt": PROMPTS[prompt], "response": f"{START} yes"}).messages
    assert answered == (*pair.prompt, YES)
    assert read_prompt({"prompt": PROMPTS[prompt], "response": f"{START} yes"}).messages == pair.prompt


def test_comparison_rows_contain_the_prompt_once(file):
    record = {"prompt": START, "chosen": f"{START} yes", "rejected": f"{START} no"}
    (row,), _ = pair_rows(file(record), recipe(), qwen(), **TRAIN)
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert qwen().decode(row["chosen_ids"]) == f"{start}yes<|im_end|>"
    assert qwen().decode(row["rejected_ids"]) == f"{start}no<|im_end|>"


def test_a_repeated_prompt_of_several_rounds_is_used_once():
    before = f"{HUMAN} Hi{ASSISTANT} yes{HUMAN} Hi{ASSISTANT}"
    pair = read_pair({"prompt": before, "chosen": f"{before} yes", "rejected": f"{before} no"})
    assert pair[:3] == ((USER, YES, USER), (YES,), (NO,))
    longer = read_pair({"prompt": START, "chosen": f"{before} yes", "rejected": f"{START} no"})
    assert longer[:3] == ((USER,), (YES, USER, YES), (NO,))


def test_a_system_prompt_in_its_own_field_is_kept():
    record = {"system": "Be kind.", "prompt": "Hi", "chosen": f"{START} yes", "rejected": f"{START} no"}
    assert read_pair(record)[:3] == ((SYSTEM, USER), (YES,), (NO,))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]
    assert read_conversation({"system": "Be kind.", "prompt": "Hi", "response": messages}).messages == (
        SYSTEM,
        USER,
        YES,
    )


def test_a_response_as_messages_may_repeat_the_prompt():
    whole = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]
    assert read_conversation({"prompt": "Hi", "response": whole}).messages == (USER, YES)
    assert read_conversation({"instruction": "Hi", "output": f"{START} yes"}).messages == (USER, YES)


REFUSED = (
    "is a whole transcript but does not begin with the text of 'prompt'; let it begin with it, or give the answer alone"
)


@pytest.mark.parametrize("name", ["chosen", "rejected", "response"])
def test_a_transcript_with_another_prompt_is_refused(name):
    read = read_conversation if name == "response" else read_pair
    record = {"prompt": "Hi", "chosen": "yes", "rejected": "no", "response": "yes"}
    if name == "response":
        del record["chosen"], record["rejected"]
    with pytest.raises(RecordError) as error:
        read({**record, name: f"{HUMAN} Ho{ASSISTANT} yes"})
    assert str(error.value) == f"{name!r} {REFUSED}"
    corrected = read({**record, name: f"{START} yes"}), read({**record, name: "yes"})  # both ways out
    assert corrected[0] == corrected[1]


def test_messages_with_another_prompt_are_refused():
    with pytest.raises(RecordError) as error:
        read_conversation({"prompt": "Hi", "response": [{"role": "user", "content": "Ho"}, YES.as_dict()]})
    assert str(error.value) == "'response' neither begins with an assistant turn nor repeats 'prompt'"


def test_messages_whose_tool_calls_differ_from_the_prompts_are_refused():
    """Only white space around a text may differ from the prompt's messages."""
    prompt = [USER.as_dict(), {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}]
    other = [USER.as_dict(), {"role": "assistant", "content": "", "tool_calls": [{"name": "g", "arguments": {}}]}]
    with pytest.raises(RecordError, match="neither begins with an assistant turn nor repeats 'prompt'"):
        read_pair({"prompt": prompt, "chosen": [*other, YES.as_dict()], "rejected": "no"})
