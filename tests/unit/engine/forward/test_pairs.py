"""Comparisons whose sides share a prefix that is computed once; compared with full forward passes of both sides."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from engine.forward.attention import use_attention
from engine.forward.pairs import pack_pairs, pair_scores, shared_prefix_length
from engine.forward.responses import sequence_scores
from engine.forward.scalar_head import scalar_class
from tests.support.small_models import small_config

END = 1
PAIRS = [
    ([5, 6, 7, 8, END], [5, 6, 7, 9, 10, 11, END]),
    ([12, END], [13, END]),  # no shared prefix
    ([14, 15, END], [14, 15, END, 16, 17, END]),  # one side continues where the other ends
    ([18, 19, 20, 21, 22, END], [18, 19, 20, END]),
]


def reward_model(family="qwen2"):
    torch.manual_seed(0)
    config = small_config(family, num_labels=1, score_offset=0.5, score_token_id=END)
    model = scalar_class(config)(config).eval()
    model.set_attn_implementation("packed")
    return model


def single_scores(model, pairs):
    """Return the scores of every side from a forward pass of its own with sdpa, shape (pairs, 2)."""
    with use_attention(model, "sdpa"):
        return torch.cat([torch.cat([model(torch.tensor([side])).logits for side in pair], 1) for pair in pairs])


def test_a_row_of_pairs_by_hand():
    row = pack_pairs([([5, 6, 7, 1], [5, 6, 8, 9, 1]), ([3, 1], [4, 1])])
    assert row["input_ids"].tolist() == [[5, 6, 7, 1, 8, 9, 1, 3, 1, 4, 1]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1, 0, 1]]
    assert row["cu_seq_lens_q"].tolist() == [0, 4, 7, 9, 11]
    assert row["cu_seq_lens_k"].tolist() == [0, 4, 9, 11, 13]
    assert row["key_positions"].tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, 10]
    assert row["score_positions"].tolist() == [3, 8, 6, 10]
    assert (row["max_length_q"], row["max_length_k"], row["use_cache"]) == (4, 5, False)


def test_the_shared_prefix_leaves_every_side_at_least_one_token():
    assert [shared_prefix_length(pair) for pair in PAIRS] == [3, 0, 2, 3]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_scores_equal_those_of_single_sides(family):
    model = reward_model(family)
    with torch.no_grad():
        assert_close(pair_scores(model, PAIRS), single_scores(model, PAIRS), atol=1e-5, rtol=1e-5)


def test_sides_with_equal_queries_and_different_keys_are_not_merged():
    """Four queries per side with four and six keys must not be treated as two sequences of five."""
    model, pairs = reward_model(), [([5, 6, 7, END], [5, 6, 8, 9, 10, END])]
    with torch.no_grad():
        assert_close(pair_scores(model, pairs), single_scores(model, pairs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_gradients_equal_those_of_single_sides(family):
    """For the training loss, with weights scaled to realistic sizes so that a tolerance of 1e-5 is meaningful."""
    model = reward_model(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.3)
    gradients = []
    for scores in (model(**pack_pairs(PAIRS)).logits.view(2, -1).T, single_scores(model, PAIRS)):
        model.zero_grad()
        (-F.logsigmoid(scores[:, 0] - scores[:, 1]).mean()).backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert max(float(grad.abs().max()) for grad in gradients[0]) > 1e-2
    for shared, plain in zip(*gradients, strict=True):
        assert_close(shared, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("changed", "unchanged"), [((0, 3), 1), ((1, 3), 0)], ids=["chosen", "rejected"])
def test_a_score_does_not_depend_on_the_other_side_or_another_pair(changed, unchanged):
    """With one side's own tokens replaced, all other scores are equal bit for bit."""
    side, at = changed
    others = [list(PAIRS[0][0]), list(PAIRS[0][1])]
    others[side][at] = 99
    model = reward_model()
    before, after = (pair_scores(model, [pair, *PAIRS[1:]]) for pair in (PAIRS[0], others))
    assert torch.equal(before[1:], after[1:])
    assert before[0, unchanged] == after[0, unchanged]
    assert before[0, side] != after[0, side]


def test_scores_do_not_depend_on_how_pairs_are_batched():
    model = reward_model()
    one_by_one = torch.cat([pair_scores(model, [pair]) for pair in PAIRS])
    assert_close(pair_scores(model, PAIRS), one_by_one, atol=1e-5, rtol=1e-5)


def test_other_implementations_compute_both_sides_in_full():
    model = reward_model()
    expected = sequence_scores(model, [side for pair in PAIRS for side in pair], 10**6).view(-1, 2)
    with use_attention(model, "sdpa"):
        assert_close(pair_scores(model, PAIRS), expected, atol=1e-5, rtol=1e-5)


def test_a_sliding_window_reaches_into_the_shared_prefix():
    """A side's own tokens attend to the shared ones within the window, as in a full forward pass."""
    torch.manual_seed(0)
    window = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}
    config = small_config("qwen2", num_labels=1, score_offset=0.5, score_token_id=END, **window)
    model = scalar_class(config)(config).eval()
    expected = single_scores(model, PAIRS)
    model.set_attn_implementation("packed")
    assert_close(pair_scores(model, PAIRS), expected, atol=1e-5, rtol=1e-5)
