"""Which prompts are annotated: balanced over complexity and diversity, against choices worked by hand."""

import pytest

from chatml import RecordError
from reward.annotation.selection import coverage, select
from reward.annotation.tagging import tags_from_fields, tags_from_reply

TAGS = [frozenset(each.split()) for each in ("a b c", "a b", "a", "b", "c d", "a c", "", "d")]


def test_a_round_adds_a_tag_with_every_prompt_and_goes_through_the_numbers_of_tags():
    """abc first, the only one of three tags; of two only cd adds one; then nothing does, and the next round begins."""
    for seed in range(20):
        taken = select(TAGS, 8, seed)
        assert sorted(taken) == list(range(8))
        assert taken[0] == 0
        first = taken[:3] if taken[1] == 7 else taken[:2]
        assert set(first) in ({0, 4}, {0, 7})  # cd; or d, never after cd
        assert taken[-1] == 6  # without tags


def test_numbers_of_tags_are_balanced():
    """A hundred prompts of three tags and ten of one, each with tags of its own: the ten are all among the first 20."""
    tags = [frozenset((f"x{i}", f"y{i}", f"z{i}")) for i in range(100)] + [frozenset((f"w{i}",)) for i in range(10)]
    taken = select(tags, 20, seed=0)
    assert [len(tags[at]) for at in taken] == [3, 1] * 10


def test_diversity_comes_before_numbers():
    """Ninety prompts ask the same; ten others are all chosen among eleven."""
    tags = [frozenset(("same",))] * 90 + [frozenset((f"rare {i}",)) for i in range(10)]
    taken = select(tags, 11, seed=3)
    assert {at for at in taken if at >= 90} == set(range(90, 100))


def test_a_function_of_tags_and_seed():
    tags = [frozenset((str(i % 7), str(i % 5))) for i in range(60)]
    assert select(tags, 20, 1) == select(tags, 20, 1)
    assert select(tags, 20, 1) != select(tags, 20, 2)
    assert select(tags, 20, 1) == select(tags, 40, 1)[:20]
    assert len(select(tags, 100, 1)) == 60
    assert select([], 5, 1) == []


def test_what_is_covered():
    report = coverage(TAGS, [0, 7])
    assert report == {
        "prompts": 8, "chosen": 2, "tags": 4, "tags_covered": 4, "without_tags": 1,
        "by_complexity": {"0": [1, 0], "1": [3, 1], "2": [3, 0], "3": [1, 1]},
        "commonest": {"a": [4, 1], "b": [3, 1], "c": [3, 1], "d": [2, 1]},
        "missing": [],
    }  # fmt: skip
    assert coverage(TAGS, [2])["missing"] == ["b", "c", "d"]


def test_tags_of_fields():
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
def test_tags_of_a_reply(reply, tags):
    assert tags_from_reply(reply) == tags
