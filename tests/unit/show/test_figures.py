"""What `make show` counts: words, n-grams, duplicates, overlaps and shares, against numbers worked by hand."""

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


def conversation(*texts, roles=("user", "assistant")):
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
def test_words_of_several_languages(text, expected):
    assert words(text) == expected


def test_word_ngrams_do_not_cross_texts():
    assert list(word_ngrams(["a b c", "d e", "f"], 2)) == [("a", "b"), ("b", "c"), ("d", "e")]


def test_exact_duplicates_name_their_first_occurrence():
    assert exact_duplicates("abacab") == {2: 0, 4: 0, 5: 1}


def test_a_text_shorter_than_five_words_is_one_shingle():
    assert shingles(["one two", "three"]) == {"one two three"}
    assert shingles(["a b c d e f"]) == {"a b c d e", "b c d e f"}
    assert shingles(["...", ""]) == set()


def test_jaccard_by_hand():
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


def test_a_near_duplicate_by_hand():
    """26 words have 22 5-grams. With another last word 21 of 23 are common; with another middle word 17 of 27."""
    text, last, middle = LETTERS, [*LETTERS[:-1], "Ω"], [*LETTERS[:12], "Ω", *LETTERS[13:]]
    texts = [[" ".join(words)] for words in (text, last, middle, ["unlike", "all", "of", "the", "others"])]
    assert near_duplicates(texts) == [NearDuplicate(1, 0, 21 / 23)]


def test_near_duplicates_are_compared_with_kept_records_only():
    """The second resembles the first; the third only the second, so it is kept; the fourth the third."""
    steps = [LETTERS, [*LETTERS[2:], "1", "2"], [*LETTERS[4:], "1", "2", "3", "4"], [*LETTERS[4:], "1", "2", "3", "5"]]
    found = near_duplicates([[" ".join(words)] for words in steps])
    assert found == [NearDuplicate(1, 0, 20 / 24), NearDuplicate(3, 2, 21 / 23)]


def test_near_duplicates_ignore_case_and_punctuation():
    assert near_duplicates([["Hello, World!"], ["hello world"], [""], [""]]) == [NearDuplicate(1, 0, 1.0)]


def test_overlaps_of_thirteen_words_by_hand():
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
    tokens_around = len(plain("seven")) + 2 + len(plain("\n"))  # <|im_start|>, <|im_end|> and the newline after it
    expected = {role: (len(head) + tokens_around) * (1 if role == "system" else 2) for role, head in headers.items()}
    counts = tokens_by_role([{"input_ids": row}], headers, ids)
    assert counts.pop(OUTSIDE_TURNS, 0) == (ids.bos is not None)
    assert counts == expected
    pair = {"chosen_ids": row, "rejected_ids": row}
    assert tokens_by_role([pair], headers, ids)["user"] == 2 * expected["user"]


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
def test_answers_trained_on_without_their_end_token_are_counted(mask):
    tokenizer = qwen()
    ids = control(tokenizer)
    messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "seven"}]
    encoded = encode(messages, tokenizer, mask=mask)
    whole = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    end = len(encoded.input_ids) - encoded.input_ids[::-1].index(ids.im_end) - 1
    cut = {name: values[:end] for name, values in whole.items()}
    masked = {**whole, "labels": [-100 if at >= end else label for at, label in enumerate(encoded.labels)]}
    assert [without_end_token([row], ids) for row in (whole, cut, masked)] == [0, 1, 1]


def test_a_react_tool_call_without_an_end_token_is_not_counted():
    tokenizer = qwen()
    call = {"name": "add", "arguments": {"a": 3}}
    messages = [
        {"role": "user", "content": "3?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "7"},
    ]  # fmt: skip
    row = row_of(encode(messages, tokenizer, tool_format="react"))
    assert any(label != -100 for label in row["labels"])
    assert without_end_token([row], control(tokenizer)) == 0


def row_of(encoded):
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


@pytest.mark.parametrize(
    ("ending", "cut_off"),
    [("word", True), ("word,", True), ("word -", True), ("词", True), ("word.", False), ("word!”", False),
     ("word:\n```", False), ("#### 72", False), ("word\n ", True), ("。", False)],
)  # fmt: skip
def test_long_answers_without_final_punctuation_look_cut_off(ending, cut_off):
    assert looks_cut_off("many " * 29 + ending) == (cut_off and len(words(ending)) == 1)
    assert looks_cut_off("many " * 30 + ending) == cut_off
    assert not looks_cut_off(ending)


def test_equal_sides_unanswered_records_and_longer_chosen_sides_are_counted():
    yes, no = (Message("assistant", text) for text in ("yes", "no"))
    question = (Message("user", "q"),)
    records = [Record("here:1", {}, Pair(question, (yes,), sides)) for sides in ((no,), (yes,))]
    assert equal_sides([conversation("q", "a"), *records]) == [2]
    assert unanswered([conversation("q", "a"), conversation("q"), *records]) == [1]
    rows = [{"chosen_ids": [0] * n, "rejected_ids": [0] * m} for n, m in ((3, 2), (2, 3), (1, 3), (2, 2))]
    assert chosen_longer(rows) == (1, 2)


def test_the_question_of_a_record_is_everything_before_the_last_answer_but_the_system_prompt():
    system = Message("system", "Be brief.")
    record = Record("here:1", {}, Conversation((system, *conversation("one", "two", "three", "four").messages)))
    assert record.question == (("user", "one"), ("assistant", "two"), ("user", "three"))
    assert record.texts == ["one", "two", "three", "four"]


RECORDS = {
    "pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "text": {"text": "plain"},
    "conversation": {"prompt": "q", "response": "a"},
    "bad": {"asked": "q", "said": "a"},
    "usual": {"question": "q", "answer": "a"},
}


@pytest.mark.parametrize(
    ("key", "names", "kinds"),
    [
        ("train", ["pair", "pair"], [Pair, Pair]),
        ("train", ["pair", "text", "conversation", "bad"], [Conversation, str, Conversation, type(None)]),
        ("prompts", ["usual"], [Conversation]),
        ("comparisons.pairs", ["pair", "conversation"], [Pair, type(None)]),
        ("prompts", ["pair", "conversation", "text"], [Conversation, Conversation, type(None)]),
        ("pretrain", ["text", "conversation"], [str, type(None)]),
    ],
)
def test_records_are_read_as_the_kind_that_their_key_needs(key, names, kinds):
    read = read_records([(f"here:{i}", RECORDS[name]) for i, name in enumerate(names)], key, {})
    assert [type(record.content) for record in read] == kinds
    assert all(record.problem for record in read if record.content is None)


def test_unread_fields_are_listed():
    records = read_records([("here:1", RECORDS["bad"]), ("here:2", {"id": 7, "prompt": "q"})], "prompts", {})
    assert unread_fields(records, {}) == ["asked", "said", "id"]
    assert unread_fields(records, {"asked": "prompt"}) == ["said", "id"]
    assert unread_fields(read_records([("here:1", RECORDS["usual"] | {"id": 7})], "prompts", {}), {}) == ["id"]
