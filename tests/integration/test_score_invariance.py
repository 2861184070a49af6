"""One conversation, one score: alone or among others, padded either way, packed, saved, adapter or merged."""

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
    """A reward model's folder as the stage leaves it, with an offset that is not 0."""
    folder = tmp_path_factory.mktemp("trained")
    write_base(folder / "base")
    write_jsonl(folder / "pairs.jsonl", map(pair, range(24)))
    (folder / "rm.yaml").write_text(RECIPE.format(folder=folder))
    lora = {"all weights": [], "adapter": ["lora.r=4", "lora.merge=false"], "merged adapter": ["lora.r=4"]}
    train(load(Reward, folder / "rm.yaml", ["trainer.learning_rate=1e-2", *lora[request.param]]))
    return folder / "run" / "model"


def scored(folder):
    path = str(folder)
    return load_scalar(path, Model(path=path, dtype="float32"), load_tokenizer(path), trained=False)


@pytest.fixture(scope="module")
def rows(trained):
    return [ids for n in range(6) for ids in sides(pair(n), AutoTokenizer.from_pretrained(trained))]


@pytest.fixture(scope="module")
def alone(trained, rows):
    """Each by itself, the plainest way there is."""
    model = scored(trained)
    assert abs(model.config.score_offset) > 1e-4
    with use_attention(model, "sdpa"), torch.no_grad():
        return torch.cat([model(torch.tensor([row])).logits[0] for row in rows])


def same(scores, alone):
    assert_close(scores, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
def test_padding(trained, rows, alone, side, pad):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    tokenizer.pad_token, tokenizer.padding_side = pad, side
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    model = scored(trained)
    model.config.pad_token_id = tokenizer.pad_token_id
    with use_attention(model, "sdpa"), torch.no_grad():
        same(model(**batch).logits[:, 0], alone)


def test_packed_and_shared(trained, rows, alone):
    model = scored(trained)
    same(sequence_scores(model, rows, 10**6), alone)
    same(sequence_scores(model, rows[::-1], 1).flip(0), alone)
    same(pair_scores(model, list(zip(rows[::2], rows[1::2], strict=True))).flatten(), alone)


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_an_adapter_merged_afterwards(trained, rows, alone, tmp_path):
    merge([str(trained), str(tmp_path / "merged")])
    same(sequence_scores(scored(tmp_path / "merged"), rows, 10**6), alone)


@pytest.mark.parametrize("trained", ["all weights", "merged adapter"], indirect=True)
def test_transformers_own_class_gives_it_but_for_the_offset(trained, rows, alone):
    """Where padding is no end token; what others load reads the same place."""
    tokenizer = AutoTokenizer.from_pretrained(trained)
    plain = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    plain.config.pad_token_id = control(tokenizer).endoftext
    with torch.no_grad():
        scores = torch.cat([plain(torch.tensor([row])).logits[0] for row in rows])
    same(scores - plain.config.score_offset, alone)
