"""Selection of prompts to annotate, balanced over number of tags and diversity, against choices worked by hand."""

import pytest

from chatml import RecordError
from reward.annotation.selection import coverage, select
from reward.annotation.tagging import tags_from_fields, tags_from_reply

TAGS = [frozenset(each.split()) for each in ("a b c", "a b", "a", "b", "c d", "a c", "", "d")]


def test_each_prompt_of_a_round_adds_a_new_tag_and_the_number_of_tags_alternates():
    """First "a b c", the only prompt with three tags; then "c d" or "d" adds tag d; then a new round starts."""
    for seed in range(20):
        chosen = select(TAGS, 8, seed)
        assert sorted(chosen) == list(range(8))
        assert chosen[0] == 0
        first = chosen[:3] if chosen[1] == 7 else chosen[:2]
        assert set(first) in ({0, 4}, {0, 7})  # "c d", or "d" if it comes first
        assert chosen[-1] == 6  # the prompt without tags


def test_prompts_with_few_and_many_tags_are_balanced():
    """A hundred prompts have three tags and ten have one, all different: the ten are among the first 20."""
    tags = [frozenset((f"x{i}", f"y{i}", f"z{i}")) for i in range(100)] + [frozenset((f"w{i}",)) for i in range(10)]
    chosen = select(tags, 20, seed=0)
    assert [len(tags[index]) for index in chosen] == [3, 1] * 10


def test_rare_tags_are_chosen_before_common_ones():
    """Ninety prompts have the same tag; of eleven chosen prompts ten are the others."""
    tags = [frozenset(("same",))] * 90 + [frozenset((f"rare {i}",)) for i in range(10)]
    chosen = select(tags, 11, seed=3)
    assert {index for index in chosen if index >= 90} == set(range(90, 100))


def test_selection_depends_only_on_tags_and_seed():
    tags = [frozenset((str(i % 7), str(i % 5))) for i in range(60)]
    assert select(tags, 20, 1) == select(tags, 20, 1)
    assert select(tags, 20, 1) != select(tags, 20, 2)
    assert select(tags, 20, 1) == select(tags, 40, 1)[:20]
    assert len(select(tags, 100, 1)) == 60
    assert select([], 5, 1) == []


def test_coverage_report_by_hand():
    report = coverage(TAGS, [0, 7])
    assert report == {
        "prompts": 8, "chosen": 2, "tags": 4, "tags_covered": 4, "without_tags": 1,
        "by_complexity": {"0": [1, 0], "1": [3, 1], "2": [3, 0], "3": [1, 1]},
        "commonest": {"a": [4, 1], "b": [3, 1], "c": [3, 1], "d": [2, 1]},
        "missing": [],
    }  # fmt: skip
    assert coverage(TAGS, [2])["missing"] == ["b", "c", "d"]


def test_tags_from_record_fields():
    record = {"task": "sum", "gold": {"subject": ["one", "two"], "instruction": None}}
    fields = ["task", "gold.subject", "gold.instruction", "nowhere", "task.deeper"]
    assert tags_from_fields(record, fields) == {"sum", "one", "two"}
    with pytest.raises(RecordError, match="tags must be a text or a list of texts"):
        tags_from_fields({"task": 3}, ["task"])


@pytest.mark.parametrize(
    ("reply", "tags"),
    [
        ("Arithmetic, word  problem.", {"arithmetic", "word problem"}),
        ('1. "Poetry"\n2. love\n- Short Form\n', {"poetry", "love", "short form"}),
        ("a, A; a", {"a"}),
        (" , .\n", set()),
    ],
)
def test_tags_from_a_models_reply(reply, tags):
    assert tags_from_reply(reply) == tags
