"""The store of finished items: nothing is computed twice, and an interrupted run uses the same slices."""

import pytest

from engine.files import jsonl
from eval.item_store import ItemStore

ITEMS = ["a", "b", "c", "d", "e"]


class Work:
    """Computes rows, and records the slices that it was called for."""

    def __init__(self, stop_at=None):
        self.slices, self.stop_at = [], stop_at

    def __call__(self, part):
        if part.start == self.stop_at:
            raise KeyboardInterrupt
        self.slices.append((part.start, part.stop))
        return [{"value": 10 * index} for index in range(part.start, part.stop)]


def values(rows):
    return [row["value"] for row in rows]


def test_finished_items_are_not_computed_again(tmp_path):
    first, again = Work(), Work()
    assert values(ItemStore(tmp_path, "x", 1).complete(ITEMS, first, 2)) == [0, 10, 20, 30, 40]
    assert first.slices == [(0, 2), (2, 4), (4, 5)]
    assert values(ItemStore(tmp_path, "x", 1).complete(ITEMS, again, 2)) == [0, 10, 20, 30, 40]
    assert again.slices == []


def test_an_interrupted_store_resumes_with_the_same_slices(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ItemStore(tmp_path, "x", 1).complete(ITEMS, Work(stop_at=2), 2)
    rest = Work()
    assert values(ItemStore(tmp_path, "x", 1).complete(ITEMS, rest, 2)) == [0, 10, 20, 30, 40]
    assert rest.slices == [(2, 4), (4, 5)]


def test_the_slice_of_a_half_written_line_is_computed_again(tmp_path):
    store = ItemStore(tmp_path, "x", 1)
    store.complete(ITEMS[:4], Work(), 2)
    store.path.write_text(store.path.read_text()[:-5])
    rest = Work()
    assert values(ItemStore(tmp_path, "x", 1).complete(ITEMS[:4], rest, 2)) == [0, 10, 20, 30]
    assert rest.slices == [(2, 4)]
    assert [row["of"] for row in jsonl.read(store.path)] == ["a", "b", "c", "d"]


def test_another_model_or_item_is_computed(tmp_path):
    ItemStore(tmp_path, "x", "model", 1).complete(ITEMS, Work(), 5)
    other_model, other_item = Work(), Work()
    ItemStore(tmp_path, "x", "model", 2).complete(ITEMS, other_model, 5)
    ItemStore(tmp_path, "x", "model", 1).complete([*ITEMS[:4], "E"], other_item, 2)
    assert (other_model.slices, other_item.slices) == ([(0, 5)], [(4, 5)])


def test_equal_items_share_one_result(tmp_path):
    assert values(ItemStore(tmp_path, "x", 1).complete(["a", "a", "b"], Work(), 3)) == [0, 0, 20]
