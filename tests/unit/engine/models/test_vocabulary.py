"""Comparison of the vocabularies of two tokenizers."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from engine.models.vocabulary import same_vocabulary
from tests.support.tokenizers import llama, qwen


def changed(change):
    """Return qwen() with its model's vocabulary changed."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    change(spec["model"]["vocab"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))


def swap(vocabulary):
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def test_vocabularies_are_equal_if_every_token_has_the_same_id():
    assert same_vocabulary(qwen(), changed(lambda vocabulary: None))
    assert len(changed(swap)) == len(qwen())
    assert not same_vocabulary(qwen(), changed(swap))
    assert not same_vocabulary(qwen(), llama())
