"""Small tokenizers that add a space before a text, of the kinds that published models have."""

import json
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.tokenizers import CHATML, CORPUS, sentencepiece

MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")


def _finished(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CHATML])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in MARKERS])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def _spec() -> dict[str, Any]:
    """Return `sentencepiece` as a tokenizer.json whose merges, as in Llama 2, never join a line break to a letter."""
    spec = json.loads(sentencepiece().backend_tokenizer.to_str())
    model = spec["model"]
    model["merges"] = [merge for merge in model["merges"] if "\n" not in "".join(merge)]
    model["vocab"] = {f"line break {i}" if "\n" in token else token: i for token, i in model["vocab"].items()}
    return spec


@lru_cache
def legacy() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 2's and the first Mistral's: a normaliser adds the space before every text part."""
    return _finished(Tokenizer.from_str(json.dumps(_spec())))


@lru_cache
def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Return `legacy` with Metaspace instead of the normaliser, as with `legacy=False`; always, first or never."""
    spec = _spec()
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    return _finished(Tokenizer.from_str(json.dumps(spec)))


@lru_cache
def unigram(scheme: str = "always") -> PreTrainedTokenizerFast:
    """Return a Unigram model with Metaspace; characters not seen in training become its unknown token."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False, initial_alphabet=["\n"]
    )
    backend.train_from_iterator([text.replace("<|", "< |") for text in CORPUS], trainer)
    return _finished(backend)


@lru_cache
def byte_level() -> PreTrainedTokenizerFast:
    """Return a byte-level model with add_prefix_space: a space before every part that does not start with one."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _finished(backend)


@lru_cache
def collapsing() -> PreTrainedTokenizerFast:
    """Return a model whose normaliser replaces all white space, line breaks too, with one space (as T5's, XGLM's)."""
    backend = Tokenizer.from_str(metaspace("always").backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
