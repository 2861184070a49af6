"""Published tokenizers and a published model; tests skip if `tests.support.fetch` has not fetched them."""

import os
from functools import lru_cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.models.tokenizer import load_tokenizer
from tests.support.fetch import CACHE, SMOLLM2

FOLDERS = {
    "qwen3": "tokenizers/qwen3",
    "llama3_1": "tokenizers/llama3_1",
    "gemma3": "tokenizers/gemma3",
    "qwen1": "tokenizers/qwen1",
    "smollm2": SMOLLM2,
}
NAMES = tuple(FOLDERS)


def fetched(name: str) -> Path:
    """Return the folder of a published tokenizer; skip the test if it is absent."""
    folder = CACHE / FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"{name} is not fetched; run .venv/bin/python -m tests.support.fetch {FOLDERS[name]}")
    return folder


@lru_cache
def _prepared(folder: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return a published tokenizer as a run loads it, with the ChatML tokens; skip the test if it is absent."""
    return _prepared(os.fspath(fetched(name)))


def as_published(name: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of NAMES as transformers loads it, with its own template."""
    return AutoTokenizer.from_pretrained(fetched(name))
