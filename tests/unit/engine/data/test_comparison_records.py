"""Every shape of record in which a comparison, a prompt or a transcript can be given."""

import pytest

from chatml import Message, RecordError, ToolCall, read_margin, read_pair, read_prompt
from tests.support.records import ANSWER, TALKS, USER, messages

CALL = ToolCall("add", {"a": 3})

# Comparisons

HH = "\n\nHuman: Hi\n\nAssistant: "
PAIRS = {
    "transcripts": {"chosen": f"{HH}Hello", "rejected": f"{HH} Go away "},
    "prompt and texts": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
    "transcript and texts": {"prompt": HH, "chosen": "Hello", "rejected": "Go away"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "Go away"},
    },
    "alpaca": {"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go away"},
    "whole conversations": {
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away"}],
    },
    "prompt and whole conversations": {
        "prompt": "Hi",
        "messages": TALKS["messages"]["messages"],
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away"}],
    },
    "messages and answers": {
        "messages": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": "Go away"}],
    },
}


@pytest.mark.parametrize("shape", PAIRS)
def test_a_comparison_is_read_from_any_shape(shape):
    assert read_pair(PAIRS[shape]) == ((USER,), (ANSWER,), (Message("assistant", "Go away"),), None)


@pytest.mark.parametrize("shape", [*PAIRS, *TALKS])
def test_a_prompt_is_read_from_any_shape(shape):
    assert read_prompt((PAIRS | TALKS)[shape]).messages == (USER,)


def test_a_conversation_that_ends_in_a_user_turn_is_a_prompt_as_a_whole():
    record = {"messages": [message.as_dict() for message in (USER, ANSWER, USER)]}
    assert read_prompt(record).messages == (USER, ANSWER, USER)
    assert read_prompt({"prompt": "Hi", "answer": 7}).messages == (USER,)


def test_all_assistant_turns_at_the_end_are_removed_from_a_prompt():
    record = {"messages": [message.as_dict() for message in (USER, ANSWER, USER, ANSWER, ANSWER)]}
    assert read_prompt(record).messages == (USER, ANSWER, USER)


def test_a_prompt_may_end_in_a_tool_result():
    turns = (USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "7"))
    record = {"messages": [message.as_dict() for message in (*turns, ANSWER)]}
    assert read_prompt(record).messages == turns


def test_chosen_and_rejected_may_differ_before_their_last_turn():
    record = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Goodbye",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Who?",
    }
    rest = (ANSWER, Message("user", "Bye"), Message("assistant", "Goodbye"))
    assert read_pair(record) == ((USER,), rest, (Message("assistant", "Who?"),), None)


def test_equal_sides_each_keep_their_answer():
    assert read_pair({"prompt": "Hi", "chosen": "Hello", "rejected": "Hello"}) == ((USER,), (ANSWER,), (ANSWER,), None)


# Transcripts


def test_a_marker_of_the_current_speaker_is_text():
    record = {"text": "\n\nHuman: Go on:\n\nHuman: Hi\n\nAssistant: Hello\n\nAssistant: Hello again"}
    assert messages(record) == (
        Message("user", "Go on:\n\nHuman: Hi"),
        Message("assistant", "Hello\n\nAssistant: Hello again"),
    )


def test_a_user_turn_at_the_end_of_a_side_belongs_to_its_answer():
    record = {"chosen": f"{HH}Hello", "rejected": f"{HH}Hello\n\nHuman: Thanks"}
    assert read_pair(record).rejected == (Message("assistant", "Hello\n\nHuman: Thanks"),)


def test_an_empty_answer_is_allowed_in_a_comparison():
    assert read_pair({"chosen": f"{HH}Hello", "rejected": HH}).rejected == (Message("assistant", ""),)


# Margins


def test_a_margin_must_be_a_number_and_is_0_by_default():
    record = {"prompt": "Hi", "chosen": "Hello", "rejected": "Who?"}
    assert read_margin(record) == 0
    assert read_margin({**record, "gap": 2}, {"gap": "margin"}) == 2.0
    for wrong in ("large", True, float("nan")):
        with pytest.raises(RecordError) as error:
            read_margin({**record, "margin": wrong})
        assert str(error.value) == f"'margin' is {wrong!r}; it must be a number: how much better 'chosen' is"
