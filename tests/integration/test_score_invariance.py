"""A conversation's score does not depend on padding, packing, saving, or on merging the adapter."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chatml import control
from config import load
from config.sections import Model
from engine.forward.attention import use_attention
from engine.forward.pairs import pair_scores
from engine.forward.responses import sequence_scores
from engine.models.loading import load_scalar
from engine.models.tokenizer import load_tokenizer
from release.merge import merge
from reward.recipe import Reward
from reward.train import train
from tests.integration.test_reward import RECIPE, pair, sides
from tests.support.stage_runs import write_base, write_jsonl


@pytest.fixture(scope="module", params=["all weights", "adapter", "merged adapter"])
def trained(request, tmp_path_factory):
    """Return the folder of a trained reward model with a nonzero score offset."""
    folder = tmp_path_factory.mktemp("trained")
    write_base(folder / "base")
    write_jsonl(folder / "pairs.jsonl", map(pair, range(24)))
    (folder / "rm.yaml").write_text(RECIPE.format(folder=folder))
    lora = {"all weights": [], "adapter": ["lora.r=4", "lora.merge=false"], "merged adapter": ["lora.r=4"]}
    train(load(Reward, folder / "rm.yaml", ["trainer.learning_rate=1e-2", *lora[request.param]]))
    return folder / "run" / "model"


def load_model(folder):
    path = str(folder)
    return load_scalar(path, Model(path=path, dtype="float32"), load_tokenizer(path), trained=False)


@pytest.fixture(scope="module")
def rows(trained):
    return [ids for n in range(6) for ids in sides(pair(n), AutoTokenizer.from_pretrained(trained))]


@pytest.fixture(scope="module")
def expected(trained, rows):
    """Return the score of each conversation from a forward pass of its own."""
    model = load_model(trained)
    assert abs(model.config.score_offset) > 1e-4
    with use_attention(model, "sdpa"), torch.no_grad():
        return torch.cat([model(torch.tensor([row])).logits[0] for row in rows])


def assert_same_scores(scores, expected):
    assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
def test_scores_do_not_depend_on_padding(trained, rows, expected, side, pad):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    tokenizer.pad_token, tokenizer.padding_side = pad, side
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    model = load_model(trained)
    model.config.pad_token_id = tokenizer.pad_token_id
    with use_attention(model, "sdpa"), torch.no_grad():
        assert_same_scores(model(**batch).logits[:, 0], expected)


def test_scores_do_not_depend_on_packing_and_shared_prompts(trained, rows, expected):
    model = load_model(trained)
    assert_same_scores(sequence_scores(model, rows, 10**6), expected)
    assert_same_scores(sequence_scores(model, rows[::-1], 1).flip(0), expected)
    assert_same_scores(pair_scores(model, list(zip(rows[::2], rows[1::2], strict=True))).flatten(), expected)


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_merging_an_adapter_afterwards_keeps_its_scores(trained, rows, expected, tmp_path):
    merge([str(trained), str(tmp_path / "merged")])
    assert_same_scores(sequence_scores(load_model(tmp_path / "merged"), rows, 10**6), expected)


@pytest.mark.parametrize("trained", ["all weights", "merged adapter"], indirect=True)
def test_transformers_class_gives_the_scores_without_the_offset(trained, rows, expected):
    """With a padding token that is not <|im_end|>, it reads the score at the same position."""
    tokenizer = AutoTokenizer.from_pretrained(trained)
    plain = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    plain.config.pad_token_id = control(tokenizer).endoftext
    with torch.no_grad():
        scores = torch.cat([plain(torch.tensor([row])).logits[0] for row in rows])
    assert_same_scores(scores - plain.config.score_offset, expected)
