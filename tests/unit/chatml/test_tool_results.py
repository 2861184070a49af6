"""Tool results are paired with their calls by id, or by their order if there are no ids."""

from copy import deepcopy

import pytest

from chatml import RecordError, encode
from tests.support.records import messages
from tests.support.tokenizers import qwen


def call(name, call_id=None):
    function = {"type": "function", "function": {"name": name, "arguments": {}}}
    return function if call_id is None else {**function, "id": call_id}


def result(content, call_id=None):
    return {"role": "tool", "content": content} | ({} if call_id is None else {"tool_call_id": call_id})


def conversation(calls, results):
    return [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


BOTH = [call("f", "a"), call("g", "b")]
SWAPPED = conversation(BOTH, [result("of g", "b"), result("of f", "a")])


def contents(talk):
    return [message.content for message in messages({"messages": talk}) if message.role == "tool"]


def test_results_come_in_the_order_of_their_calls():
    assert contents(SWAPPED) == ["of f", "of g"]
    three = [call("f", "x"), call("g", "y"), call("h", "z")]
    assert contents(conversation(three, [result("3", "z"), result("1", "x"), result("2", "y")])) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("tool_format", "written"),
    [
        (
            "react",
            "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n"
            "Thought: I can use f.\nAction: f\nAction Input: {}\nObservation: of f\n"
            "Thought: I can use g.\nAction: g\nAction Input: {}\nObservation: of g\nThought:",
        ),
        (
            "hermes",
            "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n"
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
            "<tool_response>\nof f\n</tool_response>\n<tool_response>\nof g\n</tool_response><|im_end|>\n",
        ),
    ],
)
def test_both_formats_write_each_result_in_the_order_of_the_calls(tool_format, written):
    assert qwen().decode(encode(SWAPPED, qwen(), tool_format=tool_format).input_ids) == written


def test_ids_may_repeat_in_a_later_round():
    again = conversation([call("f", "a"), call("g", "b")], [result("4", "b"), result("3", "a")])
    assert contents([*SWAPPED, *again]) == ["of f", "of g", "3", "4"]


@pytest.mark.parametrize(
    ("calls", "results"),
    [
        ([call("f"), call("g")], [result("1"), result("2")]),
        ([call("f")], [result("1"), result("2")]),
        ([call("f", "a")], [result("1")]),
        ([call("f")], [result("1", "a")]),
        ([call("f", ""), call("g", None)], [result("1"), result("2", "")]),
        ([call("f", "a"), call("g", "b")], []),
    ],
)
def test_without_usable_ids_the_order_is_kept(calls, results):
    assert contents(conversation(calls, results)) == [item["content"] for item in results]


def test_results_of_calls_that_are_text_keep_their_order():
    talk = [{"role": "assistant", "content": "<tool_call>"}, result("1", "b"), result("2", "a")]
    assert contents(talk) == ["1", "2"]


@pytest.mark.parametrize(
    ("calls", "results", "message"),
    [
        (BOTH, [result("1", "a"), result("2")], "message 4: no tool_call_id; name one of message 2's calls: 'a', 'b'"),
        (BOTH, [result("1"), result("2")], "message 3: no tool_call_id; name one of message 2's calls: 'a', 'b'"),
        (
            BOTH,
            [result("1", "a"), result("2", "c")],
            "message 4: tool_call_id 'c' is not one of message 2's calls: 'a', 'b'",
        ),
        ([call("f", "a")], [result("1", "b")], "message 3: tool_call_id 'b' is not one of message 2's calls: 'a'"),
        (BOTH, [result("1", "a"), result("2", "a")], "message 4: a second result for the call 'a'; keep one of them"),
        (BOTH, [result("1", "b")], "message 2: no result for the call 'a'; add a tool message with its id"),
        (
            [call("f", "a"), call("g", "a")],
            [result("1", "a"), result("2", "a")],
            "message 2: two calls have the id 'a'; give each call its own id",
        ),
        (
            [call("f", "a"), call("g")],
            [result("1", "a"), result("2", "b")],
            "message 2: call 2 has no id; give each call one",
        ),
    ],
)
def test_a_missing_unknown_or_duplicate_id_is_an_error(calls, results, message):
    with pytest.raises(RecordError) as error:
        messages({"messages": conversation(calls, results)})
    assert str(error.value) == f"'messages', {message}"


def test_a_result_that_does_not_follow_its_call_is_an_error():
    late = [*SWAPPED, {"role": "user", "content": "And?"}, result("late", "a")]
    with pytest.raises(RecordError) as error:
        messages({"messages": late})
    assert str(error.value) == ("'messages', message 6: tool_call_id 'a' is not a call of the message before")


def test_records_are_not_modified():
    before = deepcopy(SWAPPED)
    contents(SWAPPED)
    assert before == SWAPPED
