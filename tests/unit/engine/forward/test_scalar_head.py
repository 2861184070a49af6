"""The scalar head: one score per conversation, read at its last end token, with any padding or packing."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, Qwen2ForSequenceClassification

from engine.forward.attention import use_attention
from engine.forward.packed import pack
from engine.forward.scalar_head import scalar_class
from tests.support.small_models import small_config

END, PAD = 1, 0
ROWS = [[5, 6, END, 7, 8, 9, END], [10, 11, END], [12, END, 13, END]]


def reward_model(family="qwen2", offset=0.0, pad=PAD):
    torch.manual_seed(0)
    config = small_config(family, num_labels=1, score_offset=offset, score_token_id=END, pad_token_id=pad)
    return scalar_class(config)(config).eval()


def single_scores(model):
    with use_attention(model, "sdpa"):
        return torch.cat([model(torch.tensor([row])).logits[0] for row in ROWS])


def padded(side, pad):
    width = max(map(len, ROWS))
    blank = [[pad] * (width - len(row)) for row in ROWS]
    pairs = [(b, r) if side == "left" else (r, b) for b, r in zip(blank, ROWS, strict=True)]
    ones = [([0] * len(b), [1] * len(r)) for b, r in zip(blank, ROWS, strict=True)]
    masks = [(b, r) if side == "left" else (r, b) for b, r in ones]
    return torch.tensor([x + y for x, y in pairs]), torch.tensor([x + y for x, y in masks])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [PAD, END])
def test_scores_do_not_depend_on_padding_even_with_the_end_token(side, pad):
    model = reward_model(pad=pad)
    ids, mask = padded(side, pad)
    with use_attention(model, "sdpa"), torch.no_grad():
        scores = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, 0]
    assert_close(scores, single_scores(model), atol=1e-5, rtol=1e-5)


def test_transformers_pooling_reads_the_wrong_token_if_padding_is_the_end_token():
    model = reward_model(pad=END)
    plain = Qwen2ForSequenceClassification(model.config).eval()
    plain.load_state_dict(model.state_dict())
    ids, mask = padded("right", END)
    with torch.no_grad():
        assert (plain(ids, attention_mask=mask).logits[:, 0] - single_scores(model)).abs().max() > 0.01


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_packed_scores_equal_those_of_single_sequences(family):
    model = reward_model(family)
    row = pack(ROWS)
    with use_attention(model, "packed"), torch.no_grad():
        scores = model(**row, score_positions=row["cu_seq_lens_q"][1:].long() - 1).logits[:, 0]
    assert_close(scores, single_scores(model), atol=1e-5, rtol=1e-5)


def test_tokens_after_the_last_end_token_do_not_affect_the_score():
    model = reward_model()
    with use_attention(model, "sdpa"), torch.no_grad():
        short, longer = (model(torch.tensor([[5, END, *tail]])).logits for tail in ([], [30, 31]))
    assert_close(short, longer)


def test_the_score_offset_is_subtracted():
    assert_close(single_scores(reward_model(offset=1.5)), single_scores(reward_model()) - 1.5)


def test_a_sequence_without_end_token_is_an_error():
    with pytest.raises(ValueError, match="has no score"):
        reward_model()(torch.tensor([[5, END], [5, 6]]))


def test_a_saved_model_gives_equal_scores_and_loads_in_transformers(tmp_path):
    model = reward_model(offset=0.25)
    model.save_pretrained(tmp_path)
    again = scalar_class(model.config).from_pretrained(tmp_path).eval()
    assert again.config.score_offset == 0.25
    assert torch.equal(single_scores(again), single_scores(model))
    plain, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(plain) is Qwen2ForSequenceClassification
    assert not report["missing_keys"]
