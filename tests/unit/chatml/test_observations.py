"""Tool results are never trained on, neither as messages nor as observations inside ReAct text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatml import control, encode, plain_encoder
from tests.support.conversations import ADD, TOOL_TALK, trained
from tests.support.tokenizers import ALL, merged, qwen

ASKED = {"role": "user", "content": "3 + 4, then + 5?"}
REACT = """\
Thought: I add.
Action: add
Action Input: {"a": 3, "b": 4}
Observation: 7
{"unit": null}

Thought: I add again.
Action: add
Action Input: {"a": 7, "b": 5}
Observation: 12
Thought: I now know the final answer
Final Answer: 12"""


def trained_text(text, make=qwen, mask="assistant"):
    return trained(encode([ASKED, {"role": "assistant", "content": text}], make(), mask=mask), make())


# Messages


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("tool_format", ["hermes", "react"])
@pytest.mark.parametrize("mask", ["assistant", "qwen"])
@pytest.mark.parametrize("result", ["RESULT", "\nRESULT\n", "Thought: RESULT", "x\nThought: RESULT", ":RESULT"])
def test_results_are_trained_on_only_under_mask_all(make, tool_format, mask, result):
    talk = [*TOOL_TALK[:2], {"role": "tool", "content": result}, *TOOL_TALK[3:], *TOOL_TALK[:3]]
    talk[-1] = {"role": "tool", "content": result}

    def trained_under(mask):
        return "".join(trained(encode(talk, make(), mask=mask, tools=[ADD], tool_format=tool_format), make()))

    assert "RESULT" not in trained_under(mask)
    assert trained_under("all").count("RESULT") == 2


# ReAct text


@pytest.mark.parametrize("make", ALL)
def test_the_word_observation_is_trained_on_but_not_the_result_after_it(make):
    assert trained_text(REACT, make) == [
        'Thought: I add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation:',
        'Thought: I add again.\nAction: add\nAction Input: {"a": 7, "b": 5}\nObservation:',
        "Thought: I now know the final answer\nFinal Answer: 12<|im_end|>",
    ]


def test_observations_are_masked_under_mask_qwen_but_not_under_mask_all():
    first, *rest = trained_text(REACT, mask="qwen")
    assert first == "<|im_end|>\n<|im_start|>"
    assert rest == [*trained_text(REACT)[:-1], "Thought: I now know the final answer\nFinal Answer: 12<|im_end|>\n"]
    (everything,) = trained_text(REACT, mask="all")
    assert REACT in everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Not ReAct: no action precedes the observation.
        ("Observation: it is red.\nThought: why?", ["Observation: it is red.\nThought: why?<|im_end|>"]),
        ("Action: a\nSome Observation: b", ["Action: a\nSome Observation: b<|im_end|>"]),
        # After a new thought, an observation needs a new action.
        (
            "Action: a\nObservation: b\nThought: c\nObservation: d",
            ["Action: a\nObservation:", "Thought: c\nObservation: d<|im_end|>"],
        ),
        # Only a thought ends an observation.
        ("Action: a\nObservation: b\nObservation: c\nAction: d", ["Action: a\nObservation:"]),
        ("Observation: a\nAction: b\nObservation: c", ["Observation: a\nAction: b\nObservation:"]),
        # The assistant's text ends where the result would follow.
        ("Action: a\nObservation:", ["Action: a\nObservation:<|im_end|>"]),
        ("Action: a\nObservation: b", ["Action: a\nObservation:"]),
        ("Action: a\nObservation:\nThought: b", ["Action: a\nObservation:", "Thought: b<|im_end|>"]),
    ],
)
def test_where_an_observation_begins_and_ends(text, expected):
    assert trained_text(text) == expected


def test_an_observation_does_not_end_a_call_written_after_it():
    message = {"role": "assistant", "content": "Action: a\nObservation: b", "tool_calls": TOOL_TALK[1]["tool_calls"]}
    hermes = trained(encode([ASKED, message], qwen()), qwen())
    assert [span.split("\n")[:2] for span in hermes] == [["Action: a", "Observation:"], ["", "<tool_call>"]]
    react = trained(encode([ASKED, message], qwen(), tool_format="react"), qwen())
    call = 'Action: add\nAction Input: {"a": 3, "b": 4}'
    assert react == ["Thought: Action: a\nObservation:", f"\n{call}\nObservation:<|im_end|>"]


LINES = st.lists(
    st.sampled_from(
        ["Thought:", "Thought: a", "Action: b", "Observation:", "Observation: 7", " Observation: 8", "今", ""]
    ),
    max_size=12,
).map("\n".join)


def expected_text(text):
    """Return what is trained on: a second, line by line implementation of the rule."""
    kept, acted, tool, observed = "", False, False, False
    for line in text.splitlines(keepends=True):
        word = line.split(":")[0] if ":" in line else ""
        if word == "Thought":
            acted = tool = observed = False
        if tool:
            observed = True
            continue
        acted = acted or word == "Action"
        tool = acted and word == "Observation"
        observed = tool and line != "Observation:"
        kept += "Observation:" if tool else line
    return kept if observed else kept + "<|im_end|>"


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_masked_observations_equal_a_line_by_line_implementation(text):
    for make in (qwen, merged):
        assert "".join(trained_text(text, make)) == (expected_text(text) if text.strip() else "")


def test_parsing_many_actions_takes_linear_time():
    """Searching the rest of the text from each action would take minutes."""
    text = "Action: a\n" * 100_000
    encoded = encode([ASKED, {"role": "assistant", "content": text}], qwen())
    trained_on = [label for label in encoded.labels if label != -100]
    assert trained_on == [*plain_encoder(qwen())(text), control(qwen()).im_end]
