"""The report on records: counts, lengths, percentiles, the printed text and the JSON form."""

import json
from collections import Counter

import pytest

from chatml import RecordError, encode
from config import RecipeError
from engine.data.report import MAX_BAD_SHOWN, Report, merge_reports
from tests.support.rows_setting import SHORT, TRAIN, conversation_rows, pair_rows, recipe, talk
from tests.support.tokenizers import qwen


def report():
    result = Report(read=1000, lengths=Counter({120: 1, 5000: 1, 700: 1, 300: 1, 1: 1}))
    result.keep(tokens=90, whole=120, trained=40)
    result.keep(tokens=5000, whole=5000, trained=4999, rows=3)
    result.drop("too long", 700)
    result.drop("too long", 300)
    result.drop("equal sides", 1)
    result.refuse("a.jsonl:7", RecordError("no content"), "skip")
    return result


def test_the_printed_report():
    assert report().text("train") == (
        "train: 2 of 1,000 records kept (1 cut) in 4 rows, 4 dropped (2 too long, 1 equal sides, 1 unreadable)\n"
        "  tokens: 5,090 kept (5,039 trained on), 30 cut off, 1,001 dropped\n"
        "  tokens in a record: half have up to 300, 90 % 5,000, 99 % 5,000, the longest 5,000\n"
        "  skipped: a.jsonl:7: no content"
    )
    assert Report(read=1, dropped=Counter({"unreadable": 1})).text("train").splitlines()[2:] == ["  skipped: 1 more"]


def test_the_report_of_the_run_folder():
    assert json.loads(json.dumps(report().as_dict())) == {
        "read": 1000,
        "kept": 2,
        "cut": 1,
        "dropped": {"too long": 2, "equal sides": 1, "unreadable": 1},
        "rows": 4,
        "tokens": 5090,
        "trained_tokens": 5039,
        "cut_tokens": 30,
        "dropped_tokens": {"too long": 1000, "equal sides": 1},
        "lengths": {"p50": 300, "p90": 5000, "p99": 5000, "p100": 5000},
        "bad": ["a.jsonl:7: no content"],
        "spelled_ends": {},
        "read_from": [],
        "left_out": [],
    }


def test_a_report_is_read_back_from_json():
    assert Report.from_json(json.loads(json.dumps(report().as_json()))) == report()


def test_percentiles_of_lengths_by_hand():
    """Of 1 … 200, half do not exceed 100, 90 % do not exceed 180, 99 % 198."""
    assert Report(lengths=Counter(range(1, 201))).percentiles() == {50: 100, 90: 180, 99: 198, 100: 200}
    assert Report(lengths=Counter({7: 3})).percentiles() == {50: 7, 90: 7, 99: 7, 100: 7}
    assert Report(lengths=Counter({1: 1, 2: 1, 3: 1})).percentiles()[50] == 2


def test_merged_reports_add_up():
    whole = merge_reports([report(), report()])
    assert (whole.read, whole.dropped["too long"], whole.lengths[120]) == (2000, 4, 2)
    assert whole.bad == ["a.jsonl:7: no content"] * 2
    assert len(merge_reports([report()] * (MAX_BAD_SHOWN + 1)).bad) == MAX_BAD_SHOWN


@pytest.mark.parametrize("policy", ["drop", "cut_oldest_turns", "cut_left"])
def test_kept_cut_and_dropped_tokens_add_up_to_all_tokens(file, policy):
    untrained = [{**message, "train": False} for message in SHORT]
    talks = [SHORT, talk("a" * 40, "b" * 40, "Hi", "Yes."), talk("Hi", "c" * 80), untrained, *[SHORT] * 3]
    _, result = conversation_rows(file(*[{"messages": t} for t in talks]), recipe(too_long=policy), qwen(), **TRAIN)
    lengths = [len(encode(t, qwen()).input_ids) for t in talks]
    assert result.lengths == Counter(lengths)
    assert result.tokens + result.cut_tokens + result.dropped_tokens.total() == sum(lengths)
    assert result.kept + result.dropped.total() == result.read == 7
    assert result.dropped_tokens["nothing to train on"] >= lengths[3]
    assert (result.cut_tokens > 0) == (policy != "drop")


def test_the_length_of_a_pair_is_that_of_its_longer_side(file):
    pair = {"prompt": "Hi", "chosen": "Yes.", "rejected": "No, not at all."}
    rows, result = pair_rows(file(pair), recipe(), qwen(), **TRAIN)
    assert result.lengths == {len(rows[0]["rejected_ids"]): 1}
    assert result.tokens == len(rows[0]["chosen_ids"]) + len(rows[0]["rejected_ids"])


@pytest.mark.parametrize(
    ("reason", "way_out"),
    [
        ("too long", "raise data.max_length, or choose another data.too_long"),
        (
            "nothing to train on",
            "check chatml.mask, chatml.train_on and `train: false` in the records, or raise data.max_length",
        ),
        ("equal sides", "check which fields are read as chosen and rejected (data.fields)"),
    ],
)
def test_keeping_fewer_than_half_names_the_reason_and_the_way_out(reason, way_out):
    with pytest.raises(RecipeError) as error:
        Report(read=3, kept=1, dropped=Counter({reason: 2})).check("data.train", "data.max_length")
    assert str(error.value) == f"data.train: only 1 of 3 records are kept (2 {reason}); {way_out}"
