"""Whether two models may exchange token ids."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from engine.models.vocabulary import same_vocabulary
from tests.support.tokenizers import llama, qwen


def renamed(change):
    """Return qwen() with its model's vocabulary changed."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    change(spec["model"]["vocab"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))


def swap(vocabulary):
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def test_the_same_vocabulary_is_the_same_id_for_every_token():
    assert same_vocabulary(qwen(), renamed(lambda vocabulary: None))
    assert len(renamed(swap)) == len(qwen())
    assert not same_vocabulary(qwen(), renamed(swap))
    assert not same_vocabulary(qwen(), llama())
