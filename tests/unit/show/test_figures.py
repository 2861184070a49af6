"""What `make show` counts: words and their runs, duplicates, overlaps, shares; all against numbers worked by hand."""

import pytest

from chatml import Conversation, Message, Pair, control, encode, plain_encoder
from show.duplicates import NearDuplicate, exact_duplicates, jaccard, near_duplicates, shingles
from show.figures import (
    OUTSIDE_TURNS,
    chosen_longer,
    equal_sides,
    looks_cut_off,
    percentiles,
    tokens_by_role,
    unanswered,
    without_end_token,
)
from show.overlap import Overlap, evaluation_set, find_overlaps
from show.records import Record, read_records, unread_fields
from show.words import word_ngrams, words
from tests.support.tokenizers import llama, qwen

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()


def said(*texts, roles=("user", "assistant")):
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    return Record("here:1", {}, Conversation(messages))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat,  the DOG!\n- don't", ["the", "cat", "the", "dog", "don", "t"]),
        ("f(x_1) == 42", ["f", "x", "1", "42"]),
        ("今天 rain，very冷", ["今", "天", "rain", "very", "冷"]),
        ("カタカナ ひらが 한국어", [*"カタカナひらが", "한국어"]),
        ("nai\u0308ve Ünder", ["naïve", "ünder"]),
        (" ... ", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_no_run_of_words_reaches_from_one_text_into_the_next():
    assert list(word_ngrams(["a b c", "d e", "f"], 2)) == [("a", "b"), ("b", "c"), ("d", "e")]


def test_repeats_name_the_first_that_is_alike():
    assert exact_duplicates("abacab") == {2: 0, 4: 0, 5: 1}


def test_shingles_of_a_record_shorter_than_one():
    assert shingles(["one two", "three"]) == {"one two three"}
    assert shingles(["a b c d e f"]) == {"a b c d e", "b c d e f"}
    assert shingles(["...", ""]) == set()


def test_jaccard():
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


def test_a_near_duplicate_by_hand():
    """26 words make 22 runs of five. A last word changed leaves 21 in common of 23; a middle one, 17 of 27."""
    text, last, middle = LETTERS, [*LETTERS[:-1], "Ω"], [*LETTERS[:12], "Ω", *LETTERS[13:]]
    texts = [[" ".join(words)] for words in (text, last, middle, ["unlike", "all", "of", "the", "others"])]
    assert near_duplicates(texts) == [NearDuplicate(1, 0, 21 / 23)]


def test_near_duplicates_are_compared_with_what_stays():
    """The second is like the first, the third only like the second, so it stays; the fourth is like the third."""
    steps = [LETTERS, [*LETTERS[2:], "1", "2"], [*LETTERS[4:], "1", "2", "3", "4"], [*LETTERS[4:], "1", "2", "3", "5"]]
    found = near_duplicates([[" ".join(words)] for words in steps])
    assert found == [NearDuplicate(1, 0, 20 / 24), NearDuplicate(3, 2, 21 / 23)]


def test_case_and_punctuation_make_no_difference():
    assert near_duplicates([["Hello, World!"], ["hello world"], [""], [""]]) == [NearDuplicate(1, 0, 1.0)]


def test_thirteen_words_by_hand():
    thirteen = " ".join(LETTERS[:13])
    evaluation = evaluation_set("test set", [
        ("t:1", {"question": "twelve words only: " + " ".join(LETTERS[:9]), "choices": ["A", "B"]}),
        ("t:2", {"subject": 3, "deep": {"choices": ["no", f"x {thirteen.upper()}. y"]}}),
    ])  # fmt: skip
    assert (evaluation.places, evaluation.short, len(evaluation.runs)) == (["t:1", "t:2"], 1, 3)
    texts = [
        [" ".join(LETTERS[:12])],
        ["so: " + thirteen],
        [" ".join(LETTERS[:6]), " ".join(LETTERS[6:13])],
        [thirteen.replace("g", "Ω")],
    ]
    assert find_overlaps(texts, evaluation) == [Overlap(1, 1, tuple(LETTERS[:13]))]


def test_percentiles_are_values_that_occur():
    assert percentiles(range(1, 201)) == {"least": 1, "10%": 20, "50%": 100, "90%": 180, "99%": 198, "most": 200}
    assert set(percentiles([7]).values()) == {7}


@pytest.mark.parametrize("make", [qwen, llama])
def test_tokens_by_role_add_up(make):
    tokenizer = make()
    plain, ids = plain_encoder(tokenizer), control(tokenizer)
    messages = [{"role": role, "content": "seven"} for role in ("system", "user", "assistant", "user", "assistant")]
    row = encode(messages, tokenizer).input_ids
    headers = {role: [*plain(role), *plain("\n")] for role in ("user", "assistant", "system")}
    around = len(plain("seven")) + 2 + len(plain("\n"))  # <|im_start|>, <|im_end|> and the newline after it
    expected = {role: (len(head) + around) * (1 if role == "system" else 2) for role, head in headers.items()}
    counts = tokens_by_role([{"input_ids": row}], headers, ids)
    assert counts.pop(OUTSIDE_TURNS, 0) == (ids.bos is not None)
    assert counts == expected
    pair = {"chosen_ids": row, "rejected_ids": row}
    assert tokens_by_role([pair], headers, ids)["user"] == 2 * expected["user"]


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
def test_an_answer_that_is_trained_on_without_its_end(mask):
    tokenizer = qwen()
    ids = control(tokenizer)
    messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "seven"}]
    encoded = encode(messages, tokenizer, mask=mask)
    whole = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    end = len(encoded.input_ids) - encoded.input_ids[::-1].index(ids.im_end) - 1
    cut = {name: values[:end] for name, values in whole.items()}
    masked = {**whole, "labels": [-100 if at >= end else label for at, label in enumerate(encoded.labels)]}
    assert [without_end_token([row], ids) for row in (whole, cut, masked)] == [0, 1, 1]


def test_a_tool_call_in_react_ends_without_an_end():
    tokenizer = qwen()
    call = {"name": "add", "arguments": {"a": 3}}
    messages = [
        {"role": "user", "content": "3?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "7"},
    ]  # fmt: skip
    row = vars_of(encode(messages, tokenizer, tool_format="react"))
    assert any(label != -100 for label in row["labels"])
    assert without_end_token([row], control(tokenizer)) == 0


def vars_of(encoded):
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


@pytest.mark.parametrize(
    ("ending", "off"),
    [("word", True), ("word,", True), ("word -", True), ("词", True), ("word.", False), ("word!”", False),
     ("word:\n```", False), ("#### 72", False), ("word\n ", True), ("。", False)],
)  # fmt: skip
def test_answers_that_break_off(ending, off):
    assert looks_cut_off("many " * 29 + ending) == (off and len(words(ending)) == 1)
    assert looks_cut_off("many " * 30 + ending) == off
    assert not looks_cut_off(ending)


def test_pairs_and_open_ends():
    yes, no = (Message("assistant", text) for text in ("yes", "no"))
    question = (Message("user", "q"),)
    records = [Record("here:1", {}, Pair(question, (yes,), sides)) for sides in ((no,), (yes,))]
    assert equal_sides([said("q", "a"), *records]) == [2]
    assert unanswered([said("q", "a"), said("q"), *records]) == [1]
    rows = [{"chosen_ids": [0] * n, "rejected_ids": [0] * m} for n, m in ((3, 2), (2, 3), (1, 3), (2, 2))]
    assert chosen_longer(rows) == (1, 2)


def test_questions_are_what_stands_before_the_last_answer():
    system = Message("system", "Be brief.")
    record = Record("here:1", {}, Conversation((system, *said("one", "two", "three", "four").messages)))
    assert record.question == (("user", "one"), ("assistant", "two"), ("user", "three"))
    assert record.texts == ["one", "two", "three", "four"]


RECORDS = {
    "pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "text": {"text": "plain"},
    "conversation": {"prompt": "q", "response": "a"},
    "bad": {"question": "q", "answer": "a"},
}


@pytest.mark.parametrize(
    ("key", "names", "kinds"),
    [
        ("train", ["pair", "pair"], [Pair, Pair]),
        ("train", ["pair", "text", "conversation", "bad"], [Conversation, str, Conversation, type(None)]),
        ("comparisons.pairs", ["pair", "conversation"], [Pair, type(None)]),
        ("prompts", ["pair", "conversation", "text"], [Conversation, Conversation, type(None)]),
        ("pretrain", ["text", "conversation"], [str, type(None)]),
    ],
)
def test_what_a_record_is_read_as(key, names, kinds):
    read = read_records([(f"here:{i}", RECORDS[name]) for i, name in enumerate(names)], key, {})
    assert [type(record.content) for record in read] == kinds
    assert all(record.problem for record in read if record.content is None)


def test_fields_without_a_meaning():
    records = read_records([("here:1", RECORDS["bad"]), ("here:2", {"id": 7, "prompt": "q"})], "prompts", {})
    assert unread_fields(records, {}) == ["question", "answer", "id"]
    assert unread_fields(records, {"question": "prompt"}) == ["answer", "id"]
