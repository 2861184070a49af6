"""Cutting of sequences that are too long: answers stay complete, and both sides of a comparison are cut alike."""

import pytest

from chatml import IGNORE, EncodedTurn, Message, Turn, render
from chatml.turns import Part, number_exchanges
from engine.data.length import cut_pair, cut_to_length


def turn(tokens, exchange, at, *, trained=False):
    labels = tokens if trained else [IGNORE] * len(tokens)
    return EncodedTurn(Turn("assistant", (Part("", trained),), range(at, at + 1), exchange), tokens, labels)


# A system prompt of 2 tokens, three exchanges of 3 + 4, 2 + 3 and 2 + 4 tokens.
SYSTEM = turn([1, 2], 0, 0)
FIRST = [turn([10, 11, 12], 1, 1), turn([13, 14, 15, 16], 1, 2, trained=True)]
SECOND = [turn([20, 21], 2, 3), turn([22, 23, 24], 2, 4, trained=True)]
THIRD = [turn([30, 31], 3, 5), turn([32, 33, 34, 35], 3, 6, trained=True)]
TALK = [SYSTEM, *FIRST, *SECOND, *THIRD]  # 20 tokens


def tokens(turns):
    return [token for turn in turns for token in turn.input_ids]


def labels(turns):
    return [label for turn in turns for label in turn.labels]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (19, [SYSTEM, *SECOND, *THIRD]),
        (13, [SYSTEM, *SECOND, *THIRD]),
        (12, [SYSTEM, *THIRD]),
        (8, [SYSTEM, *THIRD]),
        (7, None),  # the last exchange is never cut
    ],
)
def test_cut_oldest_turns_keeps_the_system_prompt_and_whole_exchanges(limit, kept):
    assert cut_to_length(TALK, limit, "cut_oldest_turns") == kept


def test_cut_left_removes_tokens_and_trains_on_complete_answers_only():
    # 10 of 20 tokens: the second exchange loses one token of its question, and its answer is complete.
    kept = cut_to_length(TALK, 10, "cut_left")
    assert tokens(kept) == [21, 22, 23, 24, 30, 31, 32, 33, 34, 35]
    assert labels(kept) == [IGNORE, 22, 23, 24, IGNORE, IGNORE, 32, 33, 34, 35]
    kept = cut_to_length(TALK, 8, "cut_left")
    assert tokens(kept) == [23, 24, 30, 31, 32, 33, 34, 35]
    assert labels(kept) == [IGNORE, IGNORE, IGNORE, IGNORE, 32, 33, 34, 35]
    assert labels(cut_to_length(TALK, 3, "cut_left")) == [IGNORE] * 3
    assert tokens(cut_to_length(TALK, 6, "cut_left")) == tokens(THIRD)


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_drop_and_error_cut_nothing(policy):
    assert cut_to_length(TALK, 19, policy) is None


# Comparisons: six shared turns, then answers of 4 and 2 tokens.

CHOSEN = TALK
REJECTED = [*TALK[:6], turn([42, 43], 3, 6)]  # 18 tokens
SHARED = 6


@pytest.mark.parametrize(
    ("limit", "dropped"), [(19, FIRST), (13, FIRST), (12, [*FIRST, *SECOND]), (8, [*FIRST, *SECOND])]
)
def test_both_sides_lose_the_same_exchanges(limit, dropped):
    kept = cut_pair((CHOSEN, REJECTED), SHARED, limit, "cut_oldest_turns")
    assert kept == tuple([t for t in side if t not in dropped] for side in (CHOSEN, REJECTED))


def test_both_sides_lose_the_same_tokens():
    chosen, rejected = cut_pair((CHOSEN, REJECTED), SHARED, 15, "cut_left")
    assert tokens(chosen) == tokens(CHOSEN)[5:]
    assert tokens(rejected) == tokens(REJECTED)[5:]


def test_the_answers_of_a_comparison_are_never_cut():
    chosen, rejected = cut_pair((CHOSEN, REJECTED), SHARED, 4, "cut_left")
    assert (tokens(chosen), tokens(rejected)) == ([32, 33, 34, 35], [42, 43])
    assert cut_pair((CHOSEN, REJECTED), SHARED, 3, "cut_left") is None
    assert cut_pair((CHOSEN, REJECTED), SHARED, 7, "cut_oldest_turns") is None
    assert cut_pair((CHOSEN, REJECTED), SHARED, 19, "drop") is None


def test_sides_keep_every_turn_from_their_first_difference_on():
    rejected = [SYSTEM, *FIRST, *SECOND[:1], turn([50, 51, 52, 53], 2, 4)]  # differs in the second exchange's answer
    kept = cut_pair((CHOSEN, rejected), 4, 13, "cut_oldest_turns")
    assert kept == ([SYSTEM, *SECOND, *THIRD], [SYSTEM, *rejected[3:]])
    assert cut_pair((CHOSEN, rejected), 4, 12, "cut_oldest_turns") is None


# Exchanges


def test_an_exchange_starts_at_the_first_turn_after_an_answer():
    roles = ["system", "user", "user", "assistant", "tool", "assistant", "system", "user", "assistant", "user"]
    assert number_exchanges([Message(role, "") for role in roles]) == [0, 1, 1, 1, 1, 1, 2, 2, 2, 3]
    assert number_exchanges([Message(role, "") for role in ("assistant", "user", "assistant")]) == [1, 2, 2]


TOOL = {"type": "function", "function": {"name": "add"}}
ROLES = ["user", "assistant", "user", "assistant"]


def test_the_turn_with_the_tools_is_never_cut():
    """Hermes has them in the system turn, ReAct in the first question, which is then kept with its answer."""
    talk = [Message(role, "") for role in ROLES]
    assert [turn.exchange for turn in render(talk, [TOOL], "hermes")] == [0, 1, 1, 2, 2]
    assert [turn.exchange for turn in render(talk, [TOOL], "react")] == [0, 0, 2, 2]
    assert [turn.exchange for turn in render(talk, None, "react")] == [1, 1, 2, 2]
