"""Tools, calls and results in the hermes and react formats."""

import pytest

from chatml import Message, RecordError, ToolCall, encode, render
from tests.support.conversations import ADD, TALK, TOOL_TALK, trained
from tests.support.tokenizers import ALL, qwen


def test_hermes_writes_signatures_calls_and_results():
    text = qwen().decode(encode([{"role": "system", "content": "Be kind."}, *TOOL_TALK], qwen(), tools=[ADD]).input_ids)
    assert text == (
        "<|im_start|>system\nBe kind.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add", "description": "Adds.", '
        '"parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n3 + 4?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 7.<|im_end|>\n"
    )


def test_hermes_trains_on_calls_and_never_on_results():
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>'
    assert trained(encode(TOOL_TALK, qwen(), tools=[ADD]), qwen()) == [call, "It is 7.<|im_end|>"]
    assert not any("7\n" in span for span in trained(encode(TOOL_TALK, qwen(), mask="qwen"), qwen()))


def test_hermes_puts_several_calls_in_one_turn_and_their_results_in_another():
    calls = (ToolCall("add", {"a": 1}), ToolCall("add", {"a": "早"}))
    messages = [Message("assistant", "Both.", tool_calls=calls), Message("tool", "1"), Message("tool", "2")]
    assert [turn.text for turn in render(messages)] == [
        'Both.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": "早"}}\n</tool_call>',
        "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
    ]


REACT_QUESTION = """<|im_start|>user
Answer the following questions as best you can. You have access to the following tools:

add: Call this tool to interact with the add API. What is the add API useful for? Adds. Parameters: {"type": "object", \
"properties": {"a": {"type": "number"}}} Format the arguments as a JSON object.

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [add]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: 3 + 4?<|im_end|>
<|im_start|>assistant
"""


def test_react_writes_all_rounds_into_one_turn():
    text = qwen().decode(encode(TOOL_TALK, qwen(), tools=[ADD], tool_format="react").input_ids)
    assert text == REACT_QUESTION + (
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: 7\n'
        "Thought: I now know the final answer.\nFinal Answer: It is 7.<|im_end|>\n"
    )


@pytest.mark.parametrize("make", ALL)
def test_react_trains_on_all_but_the_observation(make):
    assert trained(encode(TOOL_TALK, make(), tools=[ADD], tool_format="react"), make()) == [
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation:',
        "Thought: I now know the final answer.\nFinal Answer: It is 7.<|im_end|>",
    ]


def test_a_react_prompt_after_a_result_continues_the_same_turn():
    prompt = encode(TOOL_TALK[:3], qwen(), tools=[ADD], tool_format="react", add_generation_prompt=True)
    assert qwen().decode(prompt.input_ids) == REACT_QUESTION + (
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: 7\nThought:'
    )


def test_react_writes_parallel_calls_one_after_the_other():
    calls = (ToolCall("add", {"a": 1}), ToolCall("sub", {}))
    results = [Message("tool", "1"), Message("tool", "2"), Message("assistant", "Done.")]
    (turn,) = render([Message("assistant", "Two.", tool_calls=calls), *results], tool_format="react")
    assert turn.text == (
        'Thought: Two.\nAction: add\nAction Input: {"a": 1}\nObservation: 1\n'
        "Thought: I can use sub.\nAction: sub\nAction Input: {}\nObservation: 2\n"
        "Thought: I now know the final answer.\nFinal Answer: Done."
    )


def test_react_cannot_write_calls_without_results():
    calls = (ToolCall("add", {"a": 1}), ToolCall("sub", {}))
    with pytest.raises(RecordError) as error:
        render([Message("user", "?"), Message("assistant", "", tool_calls=calls)], tool_format="react")
    assert str(error.value) == (
        "message 2: 2 tools are called at once and some results are missing; "
        "ReAct allows one call at a time: add the results, or use chatml.tools=hermes"
    )


def test_react_without_tools_does_not_change_plain_conversations():
    assert encode(TALK, qwen(), tool_format="react") == encode(TALK, qwen())
